"""Does a negative prompt do what it says? Images of one noise, with and without it, measured.

For each prompt and each sort of concept three images share their noise: without a negative prompt,
with one that names a concept of the image, with one that names another of its sort which the image
does not show. How much the concept's score changes under the first is the measure; how much it
changes under the second is what any negative prompt does to it. Each of the three is a cell of the
runner: stored, resumable, and read shard by shard.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sunbench import registry
from sunbench.bench.cells import PlannedCell, plan_cell
from sunbench.bench.claim import claim
from sunbench.bench.runner import Runner
from sunbench.metrics import Estimate, clip_extractor, clip_score, mean_estimate
from sunbench.metrics.estimate import resamples
from sunbench.models import find_model, load
from sunbench.prompts import PromptSet
from sunbench.reference_sets import recipe_for
from sunbench.studies.negative_cases import Cases, Kind, cases_for
from sunbench.studies.negative_data import NegativeRow, Negatives, NegativesRequest, SheetColumn

if TYPE_CHECKING:
    from sunbench.bench.handles import CellHandle
    from sunbench.models import LoadedModel

log = logging.getLogger(__name__)

CLIP = "CLIP score"
SHOWN = 4  # prompts of each sort on the sheet
SCORED = 64  # images that a network reads at once

#: Scores of every image, one array per measure.
Scores = list[NDArray[Any]]


def measure(request: NegativesRequest, folder: Path) -> Iterator[Negatives]:
    """Each model in turn; its cells are stored in the folder, which is checked first."""
    claim(folder)
    cards = [find_model(name) for name in request.models]
    registry.check_weights_models(request.weights, [card.name for card in cards])
    for card in cards:
        cases = cases_for(
            card, request.prompts, request.column, request.images // len(request.seeds)
        )
        loaded = load(card, device=request.device, dtype=getattr(torch, request.dtype))
        yield Measurement(loaded, cases, request, folder).all()


class Measurement:
    """One model's cases, runner and scorer, used by all methods."""

    def __init__(
        self, loaded: LoadedModel, cases: Cases, request: NegativesRequest, folder: Path
    ) -> None:
        self.loaded, self.cases, self.request = loaded, cases, request
        self.runner = Runner(loaded, folder, batch=request.batch)
        self.scorer: Any = clip_extractor(loaded.card.scorer, request.device)
        self.which = np.repeat(np.arange(len(cases.rows)), len(request.seeds))
        self.concepts = {k.name: self._concepts(k) for k in cases.kinds}
        self.reference: dict[tuple[str, str], NDArray[Any]] = {}
        self.columns: list[SheetColumn] = []

    def _concepts(self, kind: Kind) -> NDArray[Any]:
        """Embeddings of the named concept of each prompt."""
        embedded: NDArray[Any] = self.scorer.embed_text(list(kind.named)).cpu().numpy()
        return embedded

    def all(self) -> Negatives:
        """The reference, then every method at every number of steps."""
        card, cases = self.loaded.card, self.cases
        recipe, rows = recipe_for(card.name), list[NegativeRow]()
        chosen = [(m, s) for m in self.request.methods for s in self.request.steps]
        first = (recipe.method, recipe.steps)
        for method, steps in [first, *(c for c in chosen if c != first)]:
            log.info("%s, %s at %d steps", card.name, method, steps)
            rows += self._method(method, steps)
        self.runner.close()
        shown = range(min(SHOWN, len(cases.rows)))
        captions = [(cases.rows[i].text, k.named[i]) for k in cases.kinds for i in shown]
        images = len(self.which)
        return Negatives(
            card.name, self.loaded.hashes, cases.source, images, rows, self.columns, captions
        )

    # ------------------------------------------------------------------------- cells

    def _method(self, name: str, steps: int) -> list[NegativeRow]:
        plain = self._planned(name, steps, [""] * len(self.cases.rows))
        if plain.skip is not None:
            return [
                NegativeRow(self.loaded.card.name, name, steps, k.name, m, reason=plain.skip)
                for k in self.cases.kinds
                for m in _measures(k)
            ]
        return self._rows(name, steps, self.runner.make(plain))

    def _planned(self, name: str, steps: int, negatives: Sequence[str]) -> PlannedCell:
        """The cell of a method with these negative prompts."""
        rows = tuple(
            replace(r, negative=n) for r, n in zip(self.cases.rows, negatives, strict=True)
        )
        method = registry.method(name, weights=self.request.weights, model=self.loaded.context)
        return plan_cell(
            self.loaded,
            PromptSet(self.cases.source, rows, self.cases.source, ""),
            method,
            steps,
            seeds=self.request.seeds,
            guidance_scale=self.request.guidance_scale,
        )

    def _rows(self, name: str, steps: int, plain: CellHandle) -> list[NegativeRow]:
        rows, shown = list[NegativeRow](), list[tuple[Tensor, Tensor]]()
        nfe = _nfe(plain)
        for kind in self.cases.kinds:
            named = self.runner.make(self._planned(name, steps, kind.named))
            absent = self.runner.make(self._planned(name, steps, kind.absent))
            table = zip(*(self._scores(kind, h) for h in (plain, named, absent)), strict=True)
            for measure_, scores in zip(_measures(kind), table, strict=True):
                rows.append(self._row(name, steps, kind.name, measure_, scores, nfe))
            shown.append((self._first(plain), self._first(named)))
        baseline, negated = (torch.cat(parts) for parts in zip(*shown, strict=True))
        self.columns.append(SheetColumn(f"{name} {steps}", baseline, negated))
        return rows

    def _first(self, handle: CellHandle) -> Tensor:
        """The first image of the first prompts."""
        seeds, count = len(self.request.seeds), min(SHOWN, len(self.cases.rows))
        images: list[Tensor] = []
        for k in range(handle.cell.shards):
            shard = handle.cell.shard(k)
            wanted = [at for at, i in enumerate(shard) if i % seeds == 0 and i < count * seeds]
            images += [handle.images(k)[wanted]] if wanted else []
        return torch.cat(images)

    # ------------------------------------------------------------------------- scores

    def _scores(self, kind: Kind, handle: CellHandle) -> Scores:
        """The concept's score in each image: by CLIP, then by each reader."""
        parts: list[Scores] = []
        for k in range(handle.cell.shards):
            which = self.which[handle.cell.shard(k)]
            for start in range(0, len(which), SCORED):
                images = handle.images(k)[start : start + SCORED]
                parts.append(self._some_scores(kind, images, which[start : start + SCORED]))
        order = np.argsort(handle.cell.layout.stored)
        return [np.concatenate(column)[order] for column in zip(*parts, strict=True)]

    def _some_scores(self, kind: Kind, images: Tensor, which: NDArray[np.int64]) -> Scores:
        features = self.scorer.embed(images).cpu().numpy()
        read = [reader(images, which.tolist(), self.scorer) for _, reader in kind.readers]
        return [clip_score(features, self.concepts[kind.name][which]), *read]

    def _row(
        self,
        method: str,
        steps: int,
        kind: str,
        measure_: str,
        scores: tuple[NDArray[Any], ...],
        nfe: float,
    ) -> NegativeRow:
        plain, named, absent = scores
        change = named - plain
        of = self.reference.setdefault((kind, measure_), change)
        return NegativeRow(
            self.loaded.card.name,
            method,
            steps,
            kind,
            measure_,
            nfe,
            float(plain.mean()),
            float(named.mean()),
            mean_estimate(change, self.which),
            mean_estimate(absent - plain, self.which),
            share_estimate(-change, -of, self.which),
        )


def _measures(kind: Kind) -> list[str]:
    return [CLIP, *(name for name, _ in kind.readers)]


def _nfe(handle: CellHandle) -> float:
    """Counted U-Net evaluations of an image."""
    costs = [handle.store.read_features(k, "cost") for k in range(handle.cell.shards)]
    return float(np.median(np.concatenate([c[:, 0] for c in costs if c is not None])))


def share_estimate(
    fall: NDArray[Any], of: NDArray[Any], clusters: NDArray[Any], *, samples: int = 1000
) -> Estimate | None:
    """Mean of ``fall`` over mean of ``of``, with the cluster bootstrap's interval over both.

    None where the denominator is not clearly above zero: a share of nothing says nothing.
    """
    if mean_estimate(of, clusters).low <= 0:
        return None
    a, b = np.bincount(clusters, fall), np.bincount(clusters, of)
    draws = [(c @ a) / (c @ b) for c in resamples(len(a), samples, 0)]
    low, high = np.quantile(draws, [0.025, 0.975])
    value = float(a.sum() / b.sum())
    return Estimate(value, min(float(low), value), max(float(high), value), len(fall))
