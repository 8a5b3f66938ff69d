"""Losses sent to accelerate's trackers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from sunbench.errors import UserError
from sunbench.training import LoopSettings, fit, trackers
from sunbench.training.settings import TrainingSettings


class Ledger:
    """A tracker that keeps what it is told."""

    requires_logging_directory = True
    runs: ClassVar[list[Ledger]] = []

    def __init__(self, run: str, logging_dir: Path) -> None:
        self.run, self.folder, self.lines = run, logging_dir, list[tuple[int | None, Any]]()

    def start(self) -> None:
        Ledger.runs.append(self)

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        self.lines.append((step, values))


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> type[Ledger]:
    Ledger.runs.clear()
    monkeypatch.setattr(trackers, "LOGGER_TYPE_TO_CLASS", {"ledger": Ledger, "absent": Ledger})
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: ["ledger"])
    return Ledger


def test_a_tracker_is_told_the_losses_of_the_log(ledger: type[Ledger], tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Linear(2, 1)
    x = torch.randn(8, 2)
    log = trackers.open_tracker("ledger", "sun-emoji", tmp_path / "tracker")
    settings = LoopSettings(steps=6, batch=8, dtype="float32", log_every=4, learning_rate=0.01)
    fit(net, lambda k: {"loss": net(x).square().mean()}, settings, tmp_path, on_log=log)
    (run,) = ledger.runs
    assert (run.run, run.folder) == ("sun-emoji", tmp_path / "tracker")
    assert [step for step, _ in run.lines] == [4, 6]
    rows = (tmp_path / "loss.csv").read_text().splitlines()[1:]
    assert [float(r.split(",")[3]) for r in rows] == pytest.approx(
        [values["loss"] for _, values in run.lines], rel=1e-5
    )


@pytest.mark.parametrize(
    ("name", "message"), [("absnt", "absent"), ("absent", "pip install absent")]
)
def test_a_tracker_that_is_not_here_is_one_line(
    ledger: type[Ledger], name: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        TrainingSettings(track=name)


def test_trackers_shape_no_weights(ledger: type[Ledger]) -> None:
    assert TrainingSettings(track="ledger").content() == TrainingSettings().content()
