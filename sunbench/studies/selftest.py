"""Which metric catches which fault, and how often each raises an alarm over honest re-runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sunbench.bench.feature_extractors import FeatureExtractors
from sunbench.metrics import CellFeatures, Estimate, PerImageMetric, SetMetric
from sunbench.metrics.metric import Measured
from sunbench.metrics.networks import ClipExtractor
from sunbench.metrics.registry import MetricChoice
from sunbench.studies.faults import FAULTS, Material, honest_rerun

_KEY = "selftest"


@dataclass(frozen=True)
class Alarm:
    """A metric's change under a fault. caught: its whole interval is beyond the tolerance."""

    fault: str
    metric: str
    change: Estimate
    limit: float

    @property
    def caught(self) -> bool:
        """Whether the change is beyond the metric's tolerance, for better or worse."""
        return self.change.low > self.limit or self.change.high < -self.limit


@dataclass(frozen=True)
class SelfTest:
    """Alarms per fault and metric, and the share of false ones per metric over honest re-runs."""

    alarms: tuple[Alarm, ...]
    false_alarms: dict[str, float]
    reruns: int

    def uncaught(self) -> list[str]:
        """Faults that no metric catches: each is a finding."""
        caught = {a.fault for a in self.alarms if a.caught}
        return [f for f in dict.fromkeys(a.fault for a in self.alarms) if f not in caught]

    def markdown(self) -> str:
        """Faults by metrics; a number is the change in tolerances, bold where it is caught."""
        metrics = list(dict.fromkeys(a.metric for a in self.alarms))
        lines = [f"| fault | {' | '.join(metrics)} |", "|---" * (len(metrics) + 1) + "|"]
        for fault in dict.fromkeys(a.fault for a in self.alarms):
            own = {a.metric: a for a in self.alarms if a.fault == fault}
            lines.append(f"| {fault} | {' | '.join(_text(own[m]) for m in metrics)} |")
        shares = " | ".join(f"{100 * self.false_alarms[m]:.0f} %" for m in metrics)
        lines.append(f"| *false alarms, {self.reruns} honest re-runs* | {shares} |")
        missed = self.uncaught()
        end = f"Caught by no metric: {', '.join(missed)}." if missed else "Every fault is caught."
        return "\n".join([*lines, "", end, ""])


def _text(alarm: Alarm) -> str:
    text = f"{alarm.change.value / alarm.limit:+.1f}" if alarm.limit else "–"
    return f"**{text}**" if alarm.caught else text


def selftest(
    material: Material,
    prompts: Sequence[str],
    extractors: FeatureExtractors,
    *,
    reruns: int = 20,
    resampled: Sequence[Tensor] = (),
    batch: int = 64,
) -> SelfTest:
    """Plant every fault, and `reruns` honest changes, and ask every metric of the extractors.

    resampled: images of the honest cell sampled once more, honest re-runs too.

    prompts: the text of each cluster, in order. Metrics of latents or sources are left out: faults
    are planted into finished images.
    """
    judge = _Judge(material, prompts, extractors, batch)
    planted = {name: plant(material) for name, plant in FAULTS.items()} | material.cells
    alarms = [a for name, images in planted.items() for a in judge.alarms(name, images)]
    honest = [*resampled, *(honest_rerun(material, k) for k in range(reruns))]
    false = [a for images in honest for a in judge.alarms("", images)]
    shares = {
        c.label: float(np.mean([a.caught for a in false if a.metric == c.label] or [False]))
        for c in judge.choices
    }
    return SelfTest(tuple(alarms), shares, len(honest))


class _Judge:
    """Every metric of the honest images, and its change for others."""

    def __init__(
        self,
        material: Material,
        prompts: Sequence[str],
        extractors: FeatureExtractors,
        batch: int,
    ) -> None:
        self.material, self.prompts, self.extractors = material, list(prompts), extractors
        self.batch = batch
        self.choices = [
            c
            for c in extractors.choices
            if c.metric.reads in ("embeddings", "images") and c.label not in extractors.reasons
        ]
        self.embedded = extractors.embed(material.reference, batch)
        self.honest = self._measured(material.images)

    def alarms(self, fault: str, images: Tensor) -> list[Alarm]:
        """One per metric."""
        return [
            Alarm(
                fault,
                choice.label,
                value.minus(before).estimate(),
                choice.metric.tolerance.limit(before.value),
            )
            for choice, value, before in zip(
                self.choices,
                [m.value for m in self._measured(images)],
                [m.value for m in self.honest],
                strict=True,
            )
        ]

    def _measured(self, images: Tensor) -> list[Measured]:
        pairs = {"images": (images, self.material.reference)}
        features: dict[str, NDArray[Any]] = {
            **self.extractors.embed(images, self.batch),
            **self.extractors.paired(pairs, _KEY, self.batch),
        }
        return [choice.metric.measured(self._features(choice, features)) for choice in self.choices]

    def _features(self, choice: MetricChoice, features: dict[str, NDArray[Any]]) -> CellFeatures:
        metric, name = choice.metric, self.extractors.feature(choice, _KEY)
        paired = isinstance(metric, SetMetric | PerImageMetric) and metric.reads == "embeddings"
        other = self.embedded[name] if paired and metric.compares in ("sets", "pairs") else None
        texts = self._texts(choice) if metric.compares == "text" else None
        network = self.extractors.network(choice)
        return CellFeatures(features[name], self.material.clusters, other, texts, network)

    def _texts(self, choice: MetricChoice) -> np.ndarray:
        network = self.extractors.network(choice)
        assert isinstance(network, ClipExtractor)
        embedded = network.embed_text(self.prompts).cpu().numpy()
        result: np.ndarray = embedded[self.material.clusters]
        return result
