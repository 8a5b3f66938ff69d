"""What must hold for every metric in the table; a new one is tested by being listed."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sunbench.bench.feature_extractors import FeatureExtractors
from sunbench.errors import UserError
from sunbench.metrics import (
    CellFeatures,
    ImagePairMetric,
    Metric,
    PairedMetric,
    Tolerance,
    find_metric,
)
from sunbench.metrics import registry as table
from sunbench.metrics.metric import PerImageMetric
from sunbench.metrics.registry import METRICS, metric

N, SEEDS = 24, 2
PROMPTS = np.repeat(np.arange(N // SEEDS), SEEDS)


class Tiny:
    """A network that offers everything, by random projections of an image."""

    name, protocol, key, dim = "tiny", "tiny", "k" * 20, 6

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        weights = torch.randn((3 * 64, 6), generator=torch.Generator().manual_seed(0))
        small = torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, 8)
        return small.flatten(1) @ weights

    def embed_text(self, texts: list[str]) -> torch.Tensor:
        return torch.ones((len(texts), 6))

    def layers(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [images.float() / 255 - 0.5]

    def distance(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a.float() - b.float()).square().mean((1, 2, 3))

    def probabilities(self, features: torch.Tensor) -> torch.Tensor:
        return features.softmax(1)


def images(seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand((N, 3, 4, 4), generator=g)
    smooth = torch.nn.functional.interpolate(coarse, 16, mode="bilinear")
    return (smooth * 255).round().to(torch.uint8)


def noisy(x: torch.Tensor, by: int) -> torch.Tensor:
    noise = torch.randint(-by, by + 1, x.shape, generator=torch.Generator().manual_seed(1))
    return (x.int() + noise).clamp(0, 255).to(torch.uint8)


def read(one: Metric, x: torch.Tensor, y: torch.Tensor, batch: int = 64) -> NDArray[Any]:
    """What a metric reads of images x paired with y."""
    if one.reads == "embeddings":
        return Tiny().embed(x).numpy()
    if one.reads == "sources":  # as sampling computes them: scores against the source images
        from sunbench.metrics.unmasked_psnr import unmasked_psnr

        return unmasked_psnr(x, y, torch.zeros(x.shape[-2:])).numpy()
    choice = find_metric(one.name)
    networks = {} if choice.net is None else {choice.net: Tiny()}
    pairs = {"images": (x, y), "latents": (x.half(), y.half())}
    return next(iter(FeatureExtractors((choice,), networks).paired(pairs, "r", batch).values()))


def features(name: str, x: torch.Tensor, y: torch.Tensor) -> CellFeatures:
    one = metric(name)
    texts = images(7)  # any fixed direction per image
    return CellFeatures(
        read(one, x, y),
        PROMPTS,
        read(one, y, y) if one.compares in ("sets", "pairs") else None,
        Tiny().embed(texts).numpy() if one.compares == "text" else None,
        Tiny(),
    )


@pytest.fixture(params=METRICS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_interval_holds_the_value_and_is_the_same_again(name: str):
    cell_features = features(name, noisy(images(), 40), images())
    e = metric(name).estimate(cell_features)
    assert e.low <= e.value <= e.high
    assert e.low < e.high
    assert e.n == N
    assert metric(name).estimate(cell_features) == e


def test_the_same_images_are_ideal_and_noise_only_makes_it_worse(name: str):
    one, x = metric(name), images()
    if one.compares in ("text", "alone"):
        pytest.skip("looks at no reference")
    values = [one.estimate(features(name, noisy(x, by), x)).value for by in (0, 20, 120)]
    sign = 1 if one.better == "lower" else -1
    assert sign * values[0] < sign * values[1] < sign * values[2]
    if isinstance(one, PairedMetric):
        near, far = (one.measured(features(name, noisy(x, by), x)) for by in (0, 120))
        assert near.distance.value == pytest.approx(0, abs=1e-6)
        assert far.distance.value > 0


def test_relative_distance_is_one_for_the_floor_itself(name: str):
    cell_features = features(name, noisy(images(), 60), images())
    measured = metric(name).measured(cell_features)
    e = measured.relative(measured)
    if e is None:
        assert metric(name).compares != "pairs"
        pytest.skip("no distance")
    np.testing.assert_allclose([e.value, e.low, e.high], 1)


def test_batch_size_does_not_matter(name: str):
    one, x, y = metric(name), images(), images(3)
    whole, single = read(one, x, y), read(one, x, y, batch=1)
    np.testing.assert_allclose(single, whole, rtol=1e-5, atol=1e-6)


def test_what_is_not_finite_is_refused(name: str):
    cell_features = features(name, noisy(images(), 40), images())
    broken = cell_features.candidate.copy()
    broken[3] = np.nan
    if not isinstance(metric(name), PerImageMetric):
        pytest.skip("features are refused where they are extracted")
    with pytest.raises(UserError, match=rf"{name}: given nan for image 3 \(1 of 24"):
        metric(name).estimate(replace(cell_features, candidate=broken))


def test_features_that_are_not_finite_are_refused():
    class Broken(Tiny):
        def embed(self, images: torch.Tensor) -> torch.Tensor:
            return super().embed(images).log()

    extractors = FeatureExtractors((find_metric("fd[zoo-clip]"),), {"zoo-clip": Broken()})
    with pytest.raises(UserError, match="given features that are not finite for"):
        extractors.embed(images(), 8)


# ------------------------------------------------------------------------------ from outside


class MeanError(ImagePairMetric):
    """Of the documentation."""

    name = "mean_error"
    summary = "mean absolute error per channel to the reference image"
    protocol = "of 255, per image"
    better = "lower"
    tolerance = Tolerance(absolute=0.05)

    def paired_scores(self, images, reference, network):
        return (images.float() - reference.float()).abs().mean((1, 2, 3))

    def as_distance(self, scores):
        return scores


def test_a_metric_of_another_package_joins_by_its_entry_point(monkeypatch: pytest.MonkeyPatch):
    entry = EntryPoint("mean_error", "outside_metric:MeanError", "sunbench.metrics")
    monkeypatch.setattr(table, "entry_points", lambda group: [entry])
    module = type("outside_metric", (), {"MeanError": MeanError})
    monkeypatch.setitem(__import__("sys").modules, "outside_metric", module)
    assert find_metric("mean_error").label == "mean_error"
    x, y = images(), noisy(images(), 30)
    e = metric("mean_error").estimate(features("mean_error", y, x))
    expected = (y.float() - x.float()).abs().mean()
    assert e.value == pytest.approx(float(expected), rel=1e-6)
    assert e.low < e.value < e.high
    with pytest.raises(UserError, match="did you mean 'mean_error'"):
        find_metric("mean_eror")
