"""Distances to real images: the zoo's features of one composition for each held-out prompt.

Where a paper measures to photographs, its table on the zoo measures to these. No real images for
Stable Diffusion's models come with this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

from sunbench import zoo
from sunbench.bench import Request
from sunbench.errors import UserError
from sunbench.metrics import Estimate, fd_estimate
from sunbench.models import ModelCard
from sunbench.paper.catalogue import Entry
from sunbench.paper.plan import ModelMap, label_of
from sunbench.paper.runs import PartRun
from sunbench.report.texts import number
from sunbench.store import CellReader


@cache
def _features(model: str) -> NDArray[np.float32] | None:
    """Features (N, D) of a zoo model's real images, one per prompt of the set; None without any."""
    file = zoo.weights() / zoo.REAL / f"{model}.safetensors"
    if not file.is_file():
        return None
    from sunbench.zoo.world.real import RealFeatures

    values: NDArray[np.float32] = RealFeatures.load(file).features.values.numpy()
    return values


def real_features(entry: Entry, card: ModelCard, request: Request) -> NDArray[np.float32] | None:
    """One row (D,) for each image of a request, seeds side by side; None where there is none.

    The table must ask for it, the model be the zoo's, and the prompts the zoo's own.
    """
    if not entry.real or card.source != "zoo" or (request.prompts or card.prompts) != "zoo":
        return None
    own, prompts = _features(card.name), request.n_prompts
    if own is None or prompts > len(own):
        return None
    return np.repeat(own[:prompts], len(request.seeds), axis=0)


def to_real(cell: CellReader, real: NDArray[np.float32]) -> Estimate:
    """Fréchet distance of a cell's images to real ones; UserError without stored features."""
    for name in sorted(cell.names("embed-zoo-clip-")):
        features = cell.feature(name)
        if features is not None and len(features) == len(real):
            return fd_estimate(real, features, np.arange(len(real)) // cell.seeds)
    raise UserError(f"{cell.run}: {cell.name} has no features of zoo-clip; run it again")


def real_floors(entry: Entry, runs: Mapping[str, PartRun], models: ModelMap) -> list[str]:
    """How far as many other real images are from the real ones, a line per model that has them."""
    request, out = next(iter(runs.values())).request, []
    for card in models.cards:
        real, own = real_features(entry, card, request), _features(card.name)
        if real is None or own is None or len(own) < 2 * len(real):
            continue
        e = fd_estimate(real, own[-len(real) :], np.arange(len(real)))
        out.append(
            f"Real images of {card.name} against {len(real)} other real ones:"
            f" {label_of(card, 'fid')} {number(e.value)} [{number(e.low)}, {number(e.high)}]"
        )
    return out
