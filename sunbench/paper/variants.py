"""What SUN's Table 3 times: every method as a network of its shape, whether trained or not.

Seconds do not depend on the values of weights, so adapters, LoRAs and students that were never
trained stand for those that were. Each variant has a U-Net that shares its parameters with the
pipeline's, so that all are prepared once and take turns.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor

from sunbench.methods.common.lora import sharing_copy
from sunbench.methods.common.students import student_config
from sunbench.methods.ddim import ddim
from sunbench.methods.dpm_solver import dpm_solver_pp
from sunbench.methods.lcm.lora import RANK, TARGETS
from sunbench.methods.lcm.method import SOLVER
from sunbench.methods.sun import SunAdapter, load_sun
from sunbench.sampling import PipelineSampler, SampleSettings, SolverSpec
from sunbench.timing import TimedMethod

#: The published students' w-embedding.
COND_DIM = 256
GUIDANCE = 8.0


@dataclass(frozen=True)
class Variant:
    """One row of the timing table.

    row: the paper's row, or a new one's name. reads_negative: whether a negative prompt is encoded.
    build: its sampler on a pipeline. note: what it is.
    """

    row: str
    steps: int
    cfg: str
    reads_negative: bool
    build: Callable[[StableDiffusionPipeline, int], PipelineSampler]
    note: str = ""

    def timed(self, pipeline: StableDiffusionPipeline) -> TimedMethod:
        """The variant as a timing pass takes it, prepared once."""
        sampler = self.build(pipeline, self.steps)
        role: Literal["reference", "candidate"] = "reference" if self.row == BASE else "candidate"
        settings = SampleSettings(self.steps, GUIDANCE)
        return TimedMethod(
            self.row, role, settings, self.reads_negative, lambda: nullcontext(sampler)
        )


# ------------------------------------------------------------------------------ samplers


class UnbatchedUNet(UNet2DConditionModel):
    """A U-Net that evaluates the two halves of a guided batch one after the other."""

    def forward(
        self,
        sample: Tensor,
        timestep: Any,
        encoder_hidden_states: Tensor,
        timestep_cond: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        added_cond_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> tuple[Tensor]:
        """As the base class, in two calls of half the rows each."""
        halves = zip(sample.chunk(2), encoder_hidden_states.chunk(2), strict=True)
        run = UNet2DConditionModel.forward
        return (torch.cat([run(self, x, timestep, c, return_dict=False)[0] for x, c in halves]),)


def _with_weights_of(
    base: UNet2DConditionModel, kind: type[UNet2DConditionModel], config: Any
) -> UNet2DConditionModel:
    """A network of another class or configuration on the base's parameters; zeros for its own."""
    with torch.device("meta"):
        network = kind.from_config(config)
    weights = dict(base.state_dict())
    for name, x in network.state_dict().items():
        if name not in weights:
            weights[name] = torch.zeros(x.shape, dtype=base.dtype, device=base.device)
    network.load_state_dict(weights, assign=True)
    return network.eval().requires_grad_(False)


def _own(
    pipeline: StableDiffusionPipeline, unet: UNet2DConditionModel, solver: SolverSpec
) -> StableDiffusionPipeline:
    own = copy.copy(pipeline)
    own.unet = unet
    own.scheduler = solver.build(pipeline.scheduler.config)
    own.set_progress_bar_config(disable=True)
    return own


def guided(pipeline: StableDiffusionPipeline, steps: int) -> PipelineSampler:
    """DPM-Solver++ with both prompts in one batch."""
    own = _own(pipeline, pipeline.unet, dpm_solver_pp().solver)
    return PipelineSampler(own, SampleSettings(steps, GUIDANCE))


def unbatched(pipeline: StableDiffusionPipeline, steps: int) -> PipelineSampler:
    """DPM-Solver++ with the prompts in two batches."""
    unet = _with_weights_of(pipeline.unet, UnbatchedUNet, pipeline.unet.config)
    own = _own(pipeline, unet, dpm_solver_pp().solver)
    return PipelineSampler(own, SampleSettings(steps, GUIDANCE))


def guided_distill(pipeline: StableDiffusionPipeline, steps: int) -> PipelineSampler:
    """A student with guidance as an input, its other weights the base's."""
    config = student_config(pipeline.unet, COND_DIM)
    unet = _with_weights_of(pipeline.unet, UNet2DConditionModel, config)
    return PipelineSampler(_own(pipeline, unet, ddim().solver), SampleSettings(steps, GUIDANCE))


def lcm_lora(pipeline: StableDiffusionPipeline, steps: int) -> PipelineSampler:
    """LCM-LoRA as layers of their own beside the base's, through PEFT."""
    unet = sharing_copy(pipeline.unet)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS)))
    unet.to(pipeline.unet.device, pipeline.unet.dtype).eval().requires_grad_(False)
    return PipelineSampler(_own(pipeline, unet, SOLVER), SampleSettings(steps, 1.0))


def lcm_lora_fused(pipeline: StableDiffusionPipeline, steps: int) -> PipelineSampler:
    """LCM-LoRA merged into the weights: a plain U-Net."""
    return PipelineSampler(_own(pipeline, pipeline.unet, SOLVER), SampleSettings(steps, 1.0))


def _sun(pipeline: StableDiffusionPipeline, steps: int, *, add_pos: bool) -> PipelineSampler:
    own = _own(pipeline, sharing_copy(pipeline.unet), ddim().solver)
    adapter = SunAdapter.for_unet(own.unet, add_pos=add_pos)
    adapter.to(own.unet.device, own.unet.dtype).requires_grad_(False)
    load_sun(own, adapter)
    own.set_progress_bar_config(disable=True)
    # any scale above 1 makes the sampler pass the negative texts; SUN itself has none
    return PipelineSampler(own, SampleSettings(steps, 2.0))


def sun(pipeline: StableDiffusionPipeline, steps: int) -> PipelineSampler:
    """SUN in the paper's form: one branch for the negative prompt."""
    return _sun(pipeline, steps, add_pos=False)


def sun_released(pipeline: StableDiffusionPipeline, steps: int) -> PipelineSampler:
    """SUN as released: a second, positive branch."""
    return _sun(pipeline, steps, add_pos=True)


# ------------------------------------------------------------------------------ rows

BASE = "DPM-Solver++ (25)"
_UNMERGED = "layers beside the base's, not merged; the paper's seconds look so"

#: Every row of Table 3, and those that it leaves out: LCM-LoRA fused, SUN as released.
VARIANTS = (
    Variant(BASE, 25, "batched", True, guided),
    Variant("DPM-Solver++ (25) unbatched", 25, "unbatched", True, unbatched),
    Variant("DPM-Solver++ (4)", 4, "batched", True, guided),
    Variant("Guided-Distill (4)", 4, "none", False, guided_distill),
    Variant("LCM-LoRA (4)", 4, "none", False, lcm_lora, _UNMERGED),
    Variant("LCM-LoRA (4) fused", 4, "none", False, lcm_lora_fused, "merged: a plain U-Net"),
    Variant("SUN (4)", 4, "none", True, sun, "the paper's form"),
    Variant("SUN (4) released form", 4, "none", True, sun_released, "two branches"),
)
