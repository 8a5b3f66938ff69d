"""Does a negative prompt do what it says? Pictures of one noise, with and without it, measured.

For each prompt and each sort of concept three pictures share their noise: without a negative, with
one that names a concept of the picture, with one that names another of its sort which the picture
does not show. How much the concept's score falls under the first negative is the measure; how
much it falls under the second is what any negative does to it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sunbench import registry
from sunbench.metrics import Estimate, clip_extractor, clip_score, mean_estimate
from sunbench.metrics.estimate import resamples
from sunbench.models import find, load
from sunbench.reference_sets import recipe_for
from sunbench.sampling import ImageId, SampleSettings, decode, latent_shape, make_batch
from sunbench.studies.negative_cases import Cases, Kind, cases_for
from sunbench.studies.negative_data import NegativeRow, Negatives, NegativesRequest, Shown

if TYPE_CHECKING:
    from sunbench.models import LoadedModel
    from sunbench.sampling import Sampler

log = logging.getLogger(__name__)

CLIP = "CLIP score"
SHOWN = 4  # prompts of each sort on the sheet


def measure(request: NegativesRequest) -> Iterator[Negatives]:
    """Each model in turn."""
    cards = [find(name) for name in request.models]
    registry.check_weights_models(request.weights, [card.name for card in cards])
    for card in cards:
        dtype = getattr(torch, request.dtype)
        loaded = load(card, device=request.device, dtype=dtype)
        n = request.images // len(request.seeds)
        cases = cases_for(card, request.prompts, request.column, n)
        yield Measurement(loaded, cases, request).all()


class Measurement:
    """One model's prompts, texts and scorer, used by all methods."""

    def __init__(self, loaded: LoadedModel, cases: Cases, request: NegativesRequest) -> None:
        self.loaded, self.cases, self.request = loaded, cases, request
        self.scorer: Any = clip_extractor(loaded.card.scorer, request.device)
        self.texts = _embeddings(loaded.pipeline, _words(cases))
        self.which = [i for i in range(len(cases.rows)) for _ in request.seeds]
        self.clusters = np.array(self.which)
        self.concepts = {k.name: self._concepts(k) for k in cases.kinds}
        self.reference: dict[tuple[str, str], NDArray[Any]] = {}
        self.shown: list[Shown] = []

    def _concepts(self, kind: Kind) -> NDArray[Any]:
        """Embeddings of the named concept beside each image."""
        words = self.scorer.embed_text(list(kind.named)).cpu().numpy()
        return words[self.which]

    def all(self) -> Negatives:
        """The reference, then every method at every number of steps."""
        recipe, rows = recipe_for(self.loaded.card.name), list[NegativeRow]()
        chosen = [(m, s) for m in self.request.methods for s in self.request.steps]
        first = (recipe.method, recipe.steps)
        for method, steps in [first, *(c for c in chosen if c != first)]:
            log.info("%s, %s at %d steps", self.loaded.card.name, method, steps)
            rows += self._method(method, steps)
        card, cases = self.loaded.card, self.cases
        captions = [
            (cases.rows[i].text, k.named[i]) for k in cases.kinds for i in range(self._count())
        ]
        n = len(self.which)
        return Negatives(card.name, self.loaded.hashes, cases.source, n, rows, self.shown, captions)

    def _count(self) -> int:
        return min(SHOWN, len(self.cases.rows))

    def _method(self, name: str, steps: int) -> list[NegativeRow]:
        pipeline, weights = self.loaded.pipeline, self.request.weights
        method = registry.method(name, weights=weights, model=self.loaded.context)
        asked = self.request.guidance_scale
        guidance = self.loaded.card.guidance_scale if asked is None else asked
        settings = SampleSettings(steps, guidance)
        reason = method.skip(pipeline, settings)
        if reason is not None:
            return [
                NegativeRow(self.loaded.card.name, name, steps, k.name, measure_, reason=reason)
                for k in self.cases.kinds
                for measure_ in (CLIP, *(r for r, _ in k.readers))
            ]
        try:
            return self._rows(name, steps, method.prepare(pipeline, settings))
        finally:
            method.release(pipeline)

    def _rows(self, name: str, steps: int, sampler: Sampler) -> list[NegativeRow]:
        plain = self._pictures(sampler, [""] * len(self.cases.rows))
        rows, without, named = list[NegativeRow](), list[Tensor](), list[Tensor]()
        for kind in self.cases.kinds:
            with_named = self._pictures(sampler, kind.named)
            with_absent = self._pictures(sampler, kind.absent)
            table = zip(
                *(self._scores(kind, x) for x in (plain, with_named, with_absent)), strict=True
            )
            for measure_, scores in zip((CLIP, *(r for r, _ in kind.readers)), table, strict=True):
                rows.append(self._row(name, steps, kind.name, measure_, scores, sampler.nfe))
            first = [self.which.index(i) for i in range(self._count())]
            without.append(plain[first])
            named.append(with_named[first])
        self.shown.append(Shown(f"{name} {steps}", torch.cat(without), torch.cat(named)))
        return rows

    def _pictures(self, sampler: Sampler, negatives: Sequence[str]) -> Tensor:
        """Pictures of every image under its prompt's negative, (N, 3, H, W) uint8 on the CPU."""
        rows, seeds, out = self.cases.rows, self.request.seeds, list[Tensor]()
        ids = [ImageId(r.id, s) for r in rows for s in seeds]
        shape = latent_shape(self.loaded.pipeline, self.loaded.card.resolution)
        for start in range(0, len(ids), self.request.batch):
            some = self.which[start : start + self.request.batch]
            batch = make_batch(
                ids[start : start + self.request.batch],
                torch.stack([self.texts[rows[i].text] for i in some]),
                torch.stack([self.texts[negatives[i]] for i in some]),
                shape,
            )
            out.append(decode(self.loaded.pipeline, sampler.sample(batch)).cpu())
        return torch.cat(out)

    def _scores(self, kind: Kind, images: Tensor) -> list[NDArray[Any]]:
        """The concept's score in each picture: by CLIP, then by each reader."""
        features = self.scorer.embed(images).cpu().numpy()
        read = [reader(images, self.which, self.scorer) for _, reader in kind.readers]
        return [clip_score(features, self.concepts[kind.name]), *read]

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
        fall = plain - named
        of = self.reference.setdefault((kind, measure_), fall)
        return NegativeRow(
            self.loaded.card.name,
            method,
            steps,
            kind,
            measure_,
            nfe,
            float(plain.mean()),
            float(named.mean()),
            mean_estimate(fall, self.clusters),
            mean_estimate(plain - absent, self.clusters),
            share_estimate(fall, of, self.clusters),
        )


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


def _words(cases: Cases) -> list[str]:
    words = {"", *(r.text for r in cases.rows)}
    for kind in cases.kinds:
        words |= {*kind.named, *kind.absent}
    return sorted(words)


@torch.no_grad()
def _embeddings(pipeline: Any, texts: list[str]) -> dict[str, Tensor]:
    device = pipeline.text_encoder.device
    parts = [
        pipeline.encode_prompt(texts[i : i + 64], device, 1, False)[0].cpu()
        for i in range(0, len(texts), 64)
    ]
    return dict(zip(texts, torch.cat(parts), strict=True))
