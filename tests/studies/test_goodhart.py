"""A student trained on a distance of sets itself: the loss is that distance, the page compares."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sunbench.errors import UserError
from sunbench.metrics.frechet import fd
from sunbench.studies.goodhart import TARGET, FrechetLoss, Study, goodhart


def loss_of(reference: torch.Tensor) -> FrechetLoss:
    return FrechetLoss(None, None, Study(), reference)


def test_the_loss_is_the_frechet_distance_where_covariances_commute():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=g)
    y = 1.5 * x + torch.arange(6.0)
    expected = fd(x.double().numpy(), y.double().numpy())
    assert float(loss_of(x)(y)) == pytest.approx(expected, rel=1e-3)
    assert float(loss_of(x)(x)) == pytest.approx(0, abs=1e-4)


def test_the_loss_has_gradients_toward_the_reference():
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    y = (x + 2).requires_grad_(True)
    loss_of(x)(y).backward()
    assert y.grad is not None
    np.testing.assert_allclose(y.grad.sum(0), torch.full((4,), 4.0), rtol=1e-4)


@pytest.mark.parametrize("wrong", [{"batch": 1}, {"updates": 0}, {"images": 1}])
def test_settings_that_make_no_study_are_refused(wrong: dict[str, int]):
    with pytest.raises(UserError, match=r"expected"):
        Study(**wrong)  # type: ignore[arg-type]


def test_a_student_is_trained_measured_and_told(
    lab: Any, distilled: dict[str, Path], tmp_path: Path
):
    study = Study(
        str(lab.world.card),
        steps=2,
        updates=30,
        batch=4,
        learning_rate=1e-2,
        captions=4,
        images=6,
        start=str(distilled["boostdiff-lora"]),
    )
    verdicts = goodhart(study, tmp_path / "work", tmp_path / "goodhart.md")
    page = (tmp_path / "goodhart.md").read_text()
    assert TARGET in verdicts
    assert all(f"| {metric} |" in page for metric in verdicts)
    assert "A number stops measuring what it is optimized for" in page
    with (tmp_path / "work/training/loss.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 3
    assert all(np.isfinite(losses))  # of four images each, so noisy: whether it falls is the page's
    trained = (tmp_path / "work/training/boostdiff-lora.safetensors").read_bytes()
    assert trained != distilled["boostdiff-lora"].read_bytes()


def test_captions_that_are_measured_on_are_not_trained_on(lab: Any, tmp_path: Path):
    study = Study(str(lab.world.card), batch=4, images=10_000)
    with pytest.raises(UserError, match=r"expected at least 4 more to train on"):
        goodhart(study, tmp_path, tmp_path / "page.md")
