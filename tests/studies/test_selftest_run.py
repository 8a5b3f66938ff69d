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
    assert "**" in page.split("black |")[1].splitlines()[0]
    assert "selftest.md" in said.stdout
    assert said.exit_code == ("Every fault is caught." not in page)


def test_a_run_without_the_model_is_refused(done: Any):
    with pytest.raises(UserError, match="no candidate of other"):
        selftest_run(done.out / "run", "other")
