"""``sunbench train``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from sunbench.cli import options as o
from sunbench.cli.console import say

Method = Annotated[
    str,
    typer.Argument(
        metavar="METHOD",
        help="sun, agd, lcm, lcm-lora, tcd-lora, pcm-lora, dmd2-lora, guided-distill,"
        " boostdiff-lora or boostdiff-bitfit, bk-sdm-base, -small or -tiny, a-sdm-m1 to -m6;"
        " gits, ld3 or linear-ag, which are fitted.",
    ),
]
Base = Annotated[
    str, o.option("The frozen model: built-in name, hub id, folder or file.", metavar="MODEL")
]
Config = Annotated[
    Path | None,
    o.option("TOML over the zoo's recipe or the paper's settings; [loop] for rates."),
]
Data = Annotated[
    str | None,
    o.option(
        "Images with captions: folder, .parquet, hub dataset or a zoo build's folder.",
        metavar="NAME",
    ),
]
Start = Annotated[
    str | None,
    o.option(
        "Weights of this method to start from, such as the base's for a fine-tune.",
        "--from",
        metavar="PATH",
    ),
]


def train(
    method: Method,
    base: Base,
    folder: Annotated[Path, o.option("Folder of the training; continues one there.", "--out")],
    config: Config = None,
    data: Data = None,
    device: o.Device = None,
    start: Start = None,
) -> None:
    """Train a method's weights beside a frozen model; an interrupted training continues bit-exact.

    sun: an adapter with negative prompts, for all fine-tunes of the base. lcm: a student U-Net
    with guidance as an input. lcm-lora: the same as a LoRA, for the fine-tunes too, at one
    guidance scale. guided-distill: guidance as an input, then half of the steps round by round;
    one student U-Net per number of steps, trained again for each fine-tune. boostdiff-lora,
    boostdiff-bitfit: one guidance scale in a small LoRA or in the biases. tcd-lora, pcm-lora:
    consistency along the trajectory, or in phases, as a LoRA. dmd2-lora: distribution matching as
    a LoRA. agd: guidance in adapters.
    bk-sdm-*, a-sdm-*: a pruned or assembled U-Net beside the base's, guided as it is; --from of
    a-sdm names a trained bk-sdm-base. gits, ld3: timesteps for each number of steps. linear-ag: a
    linear rule for unconditional passes.

    The folder receives the weights as `sunbench run --weights METHOD=PATH` reads them,
    training.json with the settings, the base and the cost, README.md (their model card),
    loss.csv, its plot and sample sheets.

    Several GPUs: accelerate launch --num_processes N -m sunbench train ..., with the number of
    micro-batches per update (accumulate, under [loop]) a multiple of N.
    """
    from sunbench.registry import trainer
    from sunbench.training.request import TrainRequest
    from sunbench.training.workers import join, workers

    chosen = trainer(method)
    device = join(device or o.best_device())
    first = workers().first
    logging.getLogger("sunbench").setLevel(logging.INFO if first else logging.ERROR)
    weights = chosen(TrainRequest(method, base, folder, config, data, device, start))
    if first:
        from sunbench.report.weights_card import write_beside

        write_beside(folder)
        say(f"Weights: {weights}")
