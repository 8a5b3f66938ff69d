"""``sunbench train``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from sunbench.cli.console import out
from sunbench.cli.options import best_device


def train(
    method: Annotated[
        str,
        typer.Argument(
            help="What to train: sun, lcm, lcm-lora, guided-distill, boostdiff-lora or"
            " boostdiff-bitfit."
        ),
    ],
    base: Annotated[str, typer.Option(help="The frozen model: card, hub id, folder or file.")],
    folder: Annotated[Path, typer.Option("--out", help="Where to train; resumes what is there.")],
    config: Annotated[
        Path | None,
        typer.Option(help="TOML over the zoo's recipe or the paper's settings; [loop] for rates."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Folder with captions, .parquet, owner/name, or a zoo build's folder."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; default: the best.")] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Weights of this method to begin with, such as the base's for a fine-tune.",
        ),
    ] = None,
) -> None:
    """Train a method's own weights beside a frozen model; resumes to the bit where it stopped.

    sun: an adapter with negative prompts, for all fine-tunes of the base. lcm: a student U-Net
    with guidance as an input. lcm-lora: the same as a LoRA, for the fine-tunes too, at one
    guidance scale. guided-distill: guidance as an input, then half of the steps round by round;
    one student U-Net per number of steps, trained again for each fine-tune. boostdiff-lora,
    boostdiff-bitfit: one guidance scale in a small LoRA or in the biases.

    DIR receives the weights in the layout that the method reads (give them to a run by --weights
    METHOD=PATH), training.json with the settings, the base and the cost, README.md (a
    model card of these), loss.csv, its plot and sample sheets.

    Several GPUs: accelerate launch --num_processes N -m sunbench train …, with a multiple of N
    micro-batches an update (accumulate, under [loop]).
    """
    from sunbench.training.trainers import trainer
    from sunbench.training.workers import join, workers

    chosen = trainer(method)
    device = join(device or best_device())
    first = workers().first
    logging.getLogger("sunbench").setLevel(logging.INFO if first else logging.ERROR)
    made = chosen(base, folder, config, data, device, start)
    if first:
        from sunbench.report.weights_card import write_beside

        write_beside(folder)
        out.print(f"Weights: {made}", highlight=False, soft_wrap=True, markup=False)
