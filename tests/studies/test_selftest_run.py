"""The self-test on a finished run of a tiny world."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from sunbench.cli import app
from sunbench.errors import UserError
from sunbench.studies.selftest_run import selftest_run


def test_a_finished_run_is_tested_with_its_own_metrics(done: Any):
    said = CliRunner().invoke(app, ["selftest", str(done.out / "run"), "--images", "20"])
    assert said.exit_code in (0, 1), said.exception
    page = (done.out / "run/selftest.md").read_text()
    assert page.startswith("# Self-test on tiny, faults planted into tiny")
    for metric in ("ssim", "psnr", "perceptual[zoo-clip]", "fd[zoo-clip]", "clip_score[zoo-clip]"):
        assert metric in page
    assert "latent_cos" not in page
    assert "*false alarms, 21 honest re-runs*" in page
    for fault in ("half of the steps", "norms over the batch", "other timestep spacing"):
        assert f"| {fault} |" in page
    assert "**" in page.split("black |")[1].splitlines()[0]
    assert "selftest.md" in said.stdout
    assert said.exit_code == ("Every fault is caught." not in page)


def test_a_run_without_the_model_is_refused(done: Any):
    with pytest.raises(UserError, match="no candidate of other"):
        selftest_run(done.out / "run", "other")


def test_without_sampling_no_network_of_the_model_is_loaded(
    done: Any, monkeypatch: pytest.MonkeyPatch
):
    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("sunbench.studies.selftest_run.load_model", never)
    result = selftest_run(done.out / "run", images=20, sample=False)
    assert result.reruns == 20
    assert "half of the steps" not in {a.fault for a in result.alarms}
