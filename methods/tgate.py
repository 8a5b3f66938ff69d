"""T-GATE (Zhang et al. 2024, arXiv 2404.02747): cross-attention is kept once it has converged.

Up to the gate steps run as always, under guidance. At the gate every cross-attention's output is
kept, averaged over the negative and the positive text; after it the kept outputs stand for the
text, and a step is one pass. This is the paper's first version; its second also reuses
self-attention before the gate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from sunbench.errors import UserError
from sunbench.methods.common.guidance import SelectiveMethod, SelectiveSampler, selective
from sunbench.methods.common.lora import sharing_copy
from sunbench.methods.dpm_solver import dpm_solver_pp
from sunbench.models.protocols import Pipeline
from sunbench.sampling import SampleSettings

#: Share of the steps before the gate: 10 of 25, the defaults of HaozheLiu-ST/T-GATE's command
#: (ab2a88f) and its example for Stable Diffusion XL.
GATE = 0.4


@dataclass
class GateRule:
    """Guided before the gate; steps are counted from the start of a batch.

    gate: number of guided steps; kept: outputs of the cross-attentions by their names.
    """

    gate: int
    step: int = -1
    kept: dict[str, Tensor] = field(default_factory=dict)

    def begin(self, images: int) -> None:
        """Forget the last batch."""
        self.step = -1
        self.kept.clear()

    @property
    def keeps(self) -> bool:
        """Whether this is the step whose outputs are kept."""
        return self.step == self.gate - 1

    @property
    def reuses(self) -> bool:
        """Whether the gate is passed."""
        return self.step >= self.gate

    def needs_unconditional(self, timestep: Tensor, images: int) -> Tensor:
        """All images before the gate, none after it; a new step begins."""
        self.step += 1
        return torch.full((images,), not self.reuses)

    def observe(self, unconditional: Tensor, conditional: Tensor, rows: Tensor) -> None:
        """The rule does not look at the predictions."""


class GatedProcessor:
    """A cross-attention's processor behind the gate."""

    def __init__(self, name: str, inner: Any, rule: GateRule) -> None:
        self.name, self.inner, self.rule = name, inner, rule

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """The attention's output (rows, tokens, channels), or what was kept of it."""
        if self.rule.reuses:
            return self.rule.kept[self.name]
        out: Tensor = self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        if self.rule.keeps:
            unconditional, conditional = out.chunk(2)
            self.rule.kept[self.name] = (unconditional + conditional) / 2
        return out


def gated(unet: Any, rule: GateRule) -> Any:
    """A copy of a U-Net whose cross-attentions are behind the gate; it shares all weights."""
    own = sharing_copy(unet)
    own.set_attn_processor(
        {
            name: GatedProcessor(name, inner, rule) if ".attn2." in name else inner
            for name, inner in own.attn_processors.items()
        }
    )
    return own


@dataclass(frozen=True)
class TGate(SelectiveMethod):
    """A solver that keeps cross-attention after a share of its steps."""

    share: float = GATE
    nfe_varies: ClassVar[bool] = False
    fixed_layers: ClassVar[bool] = False

    def gate(self, settings: SampleSettings) -> int:
        """Number of guided steps: at least one."""
        return min(settings.steps, max(1, round(self.share * settings.steps)))

    def about(self) -> dict[str, object]:
        """The share."""
        return {"name": "t-gate", "share": self.share}

    def evaluations(self, settings: SampleSettings) -> int:
        """Two per step before the gate, one after it."""
        return settings.steps + self.gate(settings)

    def prepare(self, pipeline: Pipeline, settings: SampleSettings) -> SelectiveSampler:
        """Put the gate into a copy of the U-Net and the rule before it."""
        if (reason := self.skip(pipeline, settings)) is not None:
            raise UserError(reason)
        rule = GateRule(self.gate(settings))
        return selective(pipeline, gated(pipeline.unet, rule), rule, self.solver, settings)


def tgate() -> TGate:
    """T-GATE under DPM-Solver++(2M)."""
    return TGate("tgate", dpm_solver_pp().solver)
