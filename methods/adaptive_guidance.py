"""Adaptive Guidance (Castillo et al. 2023, arXiv 2312.12487, section 5).

The conditional and the unconditional prediction align as an image is denoised. Once the cosine of
the two passes a threshold, the image's unconditional pass is left out for the rest of its way. The
decision is made per image, so an image does not depend on its batch; evaluations are counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sunbench.methods.common.guidance import SelectiveMethod
from sunbench.methods.ddim import ddim
from sunbench.methods.dpm_solver import dpm_solver_pp
from sunbench.models.protocols import Pipeline

#: Cosine of the two predictions above which guidance has converged: the paper's gamma-bar, which
#: ends guidance about halfway on the paper's models. Other models align sooner or later.
THRESHOLD = 0.991


@dataclass
class AdaptiveRule:
    """Guided until the two predictions of an image agree."""

    threshold: float
    guided: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))

    def begin(self, images: int) -> None:
        """Every image starts guided."""
        self.guided = torch.ones(images, dtype=torch.bool)

    def needs_unconditional(self, timestep: Tensor, images: int) -> Tensor:
        """The images whose predictions have not agreed yet."""
        return self.guided

    def observe(self, unconditional: Tensor, conditional: Tensor, rows: Tensor) -> None:
        """Note which images agree now."""
        cosine = torch.cosine_similarity(
            unconditional.float().flatten(1), conditional.float().flatten(1)
        )
        self.guided[rows] = cosine.cpu() <= self.threshold


@dataclass(frozen=True)
class AdaptiveGuidance(SelectiveMethod):
    """A solver whose guidance ends, per image, once it does nothing any more."""

    threshold: float = THRESHOLD

    def rule(self, pipeline: Pipeline) -> AdaptiveRule:
        """By the cosine of the two predictions."""
        return AdaptiveRule(self.threshold)

    def about(self) -> dict[str, object]:
        """The threshold."""
        return {"name": "adaptive", "threshold": self.threshold}


def adaptive_guidance() -> AdaptiveGuidance:
    """DPM-Solver++(2M) under adaptive guidance."""
    return AdaptiveGuidance("adaptive-guidance", dpm_solver_pp().solver)


def adaptive_guidance_ddim() -> AdaptiveGuidance:
    """DDIM with trailing timesteps under adaptive guidance."""
    return AdaptiveGuidance("adaptive-guidance-ddim", ddim().solver)
