"""Guided-Distill (Meng et al. 2023, arXiv 2210.03142): guidance, then steps, inside a U-Net.

Deterministic DDIM on trailing time steps with as many steps as the student was trained for, so
there is one student per number of steps: ``4/`` or ``4.safetensors`` in the weights' folder. There
is no official code and there are no published weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sunbench.errors import NotAvailable, UserError
from sunbench.methods.common.students import StudentMethod
from sunbench.methods.common.weights import Weights
from sunbench.methods.ddim import ddim
from sunbench.models.protocols import Pipeline
from sunbench.sampling import SampleSettings

WEIGHTS = Weights("guided-distill", folders=True)


def students(path: Path) -> dict[int, Path]:
    """Students by their number of steps; UserError for a folder that has none."""
    entries = sorted(path.iterdir()) if path.is_dir() else []
    named = [e for e in entries if e.is_dir() or e.suffix == ".safetensors"]
    by_steps = {int(e.stem): e for e in named if e.stem.isascii() and e.stem.isdigit()}
    if not by_steps:
        raise UserError(
            f"{path}: holds no students, expected a folder with one per number of steps,"
            " such as 4/ or 4.safetensors"
        )
    return by_steps


@dataclass(frozen=True)
class GuidedDistillMethod(StudentMethod):
    """One student per number of steps."""

    def used(self, pipeline: Pipeline, settings: SampleSettings) -> Path:
        """The student whose steps are as long as these: at strength 0.5, that of twice as many."""
        by_steps = students(self.weights.find(pipeline.unet))
        if settings.asked not in by_steps:
            known = ", ".join(map(str, sorted(by_steps)))
            raise NotAvailable(f"no student for {settings.asked} steps, there are some for {known}")
        return by_steps[settings.asked]


def guided_distill() -> GuidedDistillMethod:
    """Guided-Distill under DDIM."""
    return GuidedDistillMethod("guided-distill", ddim().solver, WEIGHTS)
