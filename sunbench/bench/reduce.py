"""From stored features to numbers: statistics in float64, in shard order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sunbench.bench.execute import COST, Made
from sunbench.bench.plan import Planned
from sunbench.bench.probes import PIXELS, Probes
from sunbench.errors import UserError
from sunbench.metrics import (
    Estimate,
    Moments,
    ReferenceFactor,
    clip_score,
    closer_share,
    cosine,
    fd_estimate,
    inception_score_estimate,
    kid_estimate,
    mean_estimate,
)
from sunbench.metrics.registry import MetricChoice
from sunbench.sampling import Cell
from sunbench.store import ResultRow, key, write_atomic

ROLE_NAMES = {"reference": "reference", "floor": "reference (other seeds)"}
#: Paired metrics say how far a picture moved; with other seeds there is no pair.
UNPAIRED = ("fid", "fd", "kid", "clip_score", "inception_score")


def gather(made: Made, feature: str) -> np.ndarray:
    """A feature of all images of a cell, in order."""
    parts = [made.store.read_features(k, feature) for k in range(made.cell.shards)]
    found = [p for p in parts if p is not None]
    if len(found) != len(parts):
        raise UserError(f"{made.store.folder}: feature {feature!r} is missing; run again")
    whole = np.concatenate(found)
    if len(whole) != made.cell.images:
        raise UserError(f"{made.cell.label}: {len(whole)} images, expected {made.cell.images}")
    return whole


def clusters(cell: Cell) -> np.ndarray:
    """Prompt number of each image: what the bootstrap resamples."""
    return np.arange(cell.images) // len(cell.seeds)


def fd_samples(dimension: int) -> int:
    """Resamples of a Frechet interval: a resample costs two eigenproblems of this dimension."""
    return 200 if dimension <= 256 else 8


def cost(made: Made) -> dict[str, float]:
    """NFE and seconds an image; the median over images, so that a hiccup does not count."""
    table = gather(made, "cost")
    return dict(zip(COST, np.median(table, 0).tolist(), strict=True))


@dataclass
class Reducer:
    """Computes one model's metrics against its reference."""

    probes: Probes
    reference: Made
    prompts: list[str]
    _texts: dict[str, np.ndarray] = field(default_factory=dict)

    def rows(self, made: Made) -> list[ResultRow]:
        """Result rows of one cell, one a metric; the reference gets what needs no pair."""
        return [
            self._row(made, choice)
            for choice in self.probes.choices
            if made.planned.role == "candidate"
            or (made.planned.role == "floor" and choice.metric.name in UNPAIRED)
            or choice.metric.compares in ("text", "alone", "source")
        ]

    def _row(self, made: Made, choice: MetricChoice) -> ResultRow:
        nfe = round(cost(made)["nfe"])
        reason = self.probes.reasons.get(choice.label)
        if reason is not None:
            return result_row(made.planned, choice, None, reason, nfe, "")
        protocol = self._protocol(choice)
        return result_row(made.planned, choice, self.estimate(made, choice), None, nfe, protocol)

    def _protocol(self, choice: MetricChoice) -> str:
        network = self.probes.embedders.get(choice.net or "")
        return choice.metric.protocol + (f"; {network.protocol}" if network is not None else "")

    # ------------------------------------------------------------------------- metrics

    def estimate(self, made: Made, choice: MetricChoice) -> Estimate:
        """One metric of one cell."""
        name, groups = choice.metric.name, clusters(made.cell)
        if name in ("fid", "fd"):
            both = self._both(made, choice)
            samples, factor = fd_samples(both[0].shape[1]), self._factor(choice, both[0])
            return fd_estimate(*both, groups, samples=samples, factor=factor)
        if name == "kid":
            return kid_estimate(*self._both(made, choice), groups)
        if name == "inception_score":
            network = self.probes.embedders[str(choice.net)]
            features = gather(made, self.probes.embedding(str(choice.net)))
            p = network.probabilities(torch.from_numpy(features)).cpu().numpy()
            return inception_score_estimate(p, groups)
        return mean_estimate(self.scores(made, choice), groups)

    def scores(self, made: Made, choice: MetricChoice) -> np.ndarray:
        """The metric of every image of a cell, for metrics that have one."""
        name = choice.metric.name
        if name == "clip_score":
            images = gather(made, self.probes.embedding(str(choice.net)))
            return clip_score(images, self._text(str(choice.net))[clusters(made.cell)])
        if name == "cos":
            reference, candidate = self._both(made, choice)
            return cosine(candidate, reference)
        if name == "unmasked_psnr":
            return gather(made, name)
        features = self.probes.paired_names(self.reference.store.key)
        table = gather(made, features[choice.label])
        return table[:, PIXELS.index(name)] if name in PIXELS else table

    def _both(self, made: Made, choice: MetricChoice) -> tuple[np.ndarray, np.ndarray]:
        feature = self.probes.embedding(str(choice.net))
        return gather(self.reference, feature), gather(made, feature)

    def _factor(self, choice: MetricChoice, features: np.ndarray) -> ReferenceFactor | None:
        """The reference's Frechet factor, kept in its folder under the features' key.

        None below full rank, where the distance is a nuclear norm of the features themselves.
        """
        if len(features) <= features.shape[1]:
            return None
        name = self.probes.embedding(str(choice.net)).replace("/", "-")
        file = self.reference.store.folder / f"factor-{name}.safetensors"
        if not file.exists():
            made = ReferenceFactor.of(Moments.of(features))
            write_atomic(file, made.to_bytes())
        return ReferenceFactor.from_bytes(file.read_bytes())

    def _text(self, net: str) -> np.ndarray:
        if net not in self._texts:
            self._texts[net] = self.probes.embedders[net].embed_text(self.prompts).cpu().numpy()
        return self._texts[net]

    def pairs(self, candidates: list[Made], choice: MetricChoice) -> list[dict[str, Any]]:
        """For every two methods at equal steps: on what share of prompts A is the closer."""
        out = []
        for a in candidates:
            for b in candidates:
                if a.cell.steps == b.cell.steps and a.cell.method < b.cell.method:
                    out.append(self._closer(a, b, choice))
        return out

    def _closer(self, a: Made, b: Made, choice: MetricChoice) -> dict[str, Any]:
        sign = 1 if choice.metric.better == "lower" else -1
        x, y = (sign * self.scores(m, choice) for m in (a, b))
        e = closer_share(x, y, clusters(a.cell))
        return {
            "model": a.cell.model,
            "steps": a.cell.steps,
            "metric": choice.label,
            "a": a.cell.method,
            "b": b.cell.method,
            "a_closer": e.value,
            "low": e.low,
            "high": e.high,
            "n": e.n,
        }


def result_row(
    planned: Planned,
    choice: MetricChoice,
    estimate: Estimate | None,
    reason: str | None,
    nfe: int | None,
    protocol: str,
) -> ResultRow:
    """A row of results.json; intervals that do not exist (one prompt) become none."""
    cell = planned.cell
    value = low = high = None
    if estimate is not None:
        value = estimate.value
        if np.isfinite(estimate.low):
            low, high = estimate.low, estimate.high
    return ResultRow(
        model=cell.model,
        method=ROLE_NAMES.get(planned.role, cell.method),
        steps=cell.steps,
        task=cell.task,
        prompts=cell.prompts,
        metric=choice.label,
        value=value,
        low=low,
        high=high,
        n=cell.images,
        nfe=nfe,
        protocol=protocol,
        reason=reason,
        key=key(cell.content()),
    )
