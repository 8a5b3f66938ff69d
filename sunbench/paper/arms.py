"""What SUN's Table 3 times: every method as a network of its shape, whether trained or not.

Seconds do not depend on the values of weights, so adapters, LoRAs and students that were never
trained stand for those that were. Each has a copy of the U-Net that shares its parameters, so that
methods can take turns without being prepared again.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor

from sunbench.methods.ddim import ddim
from sunbench.methods.dpm_solver import dpm_solver_pp
from sunbench.methods.lcm import SOLVER
from sunbench.methods.lcm_lora import RANK, TARGETS
from sunbench.methods.lora import sharing_copy
from sunbench.methods.students import student_config
from sunbench.methods.sun import SunAdapter, load_sun
from sunbench.sampling import PipelineSampler, SampleSettings, SolverSpec

#: The published students' w-embedding.
COND_DIM = 256
GUIDANCE = 8.0


@dataclass(frozen=True)
class Arm:
    """One row of the timing table, ready to sample.

    row: the paper's row, or a new one's name. texts: prompts encoded an image: two where a negative
    prompt is read. note: what it is.
    """

    row: str
    steps: int
    cfg: str
    texts: int
    sampler: PipelineSampler
    note: str = ""


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


def _own(pipeline: Any, unet: Any, solver: SolverSpec) -> Any:
    own = copy.copy(pipeline)
    own.unet = unet
    own.scheduler = solver.build(pipeline.scheduler.config)
    own.set_progress_bar_config(disable=True)
    return own


def _sampler(pipeline: Any, unet: Any, solver: SolverSpec, steps: int, scale: float) -> Any:
    return PipelineSampler(_own(pipeline, unet, solver), SampleSettings(steps, scale))


def guided(pipeline: Any, steps: int) -> Arm:
    """DPM-Solver++ with both prompts in one batch."""
    made = _sampler(pipeline, pipeline.unet, dpm_solver_pp().solver, steps, GUIDANCE)
    return Arm(f"DPM-Solver++ ({steps})", steps, "batched", 2, made)


def unbatched(pipeline: Any, steps: int) -> Arm:
    """DPM-Solver++ with the prompts in two batches."""
    unet = sharing_copy(pipeline.unet)
    unet.__class__ = UnbatchedUNet
    made = _sampler(pipeline, unet, dpm_solver_pp().solver, steps, GUIDANCE)
    return Arm(f"DPM-Solver++ ({steps}) unbatched", steps, "unbatched", 2, made)


def guided_distill(pipeline: Any, steps: int) -> Arm:
    """A student with guidance as an input, its other weights the base's."""
    with torch.device("meta"):
        student = UNet2DConditionModel.from_config(student_config(pipeline.unet, COND_DIM))
    weights = dict(pipeline.unet.state_dict())
    for name, x in student.state_dict().items():
        if name not in weights:
            weights[name] = torch.zeros(x.shape, dtype=pipeline.unet.dtype)
    student.load_state_dict(weights, assign=True)
    student = student.to(pipeline.unet.device).eval().requires_grad_(False)
    made = _sampler(pipeline, student, ddim().solver, steps, GUIDANCE)
    return Arm(f"Guided-Distill ({steps})", steps, "none", 1, made)


def lcm_lora(pipeline: Any, steps: int) -> Arm:
    """LCM-LoRA as layers of their own beside the base's, through PEFT."""
    unet = sharing_copy(pipeline.unet)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS)))
    unet.to(pipeline.unet.device, pipeline.unet.dtype).eval().requires_grad_(False)
    made = _sampler(pipeline, unet, SOLVER, steps, 1.0)
    note = "layers beside the base's, not merged; the paper's seconds look so"
    return Arm(f"LCM-LoRA ({steps})", steps, "none", 1, made, note)


def lcm_lora_fused(pipeline: Any, steps: int) -> Arm:
    """LCM-LoRA merged into the weights: a plain U-Net."""
    made = _sampler(pipeline, pipeline.unet, SOLVER, steps, 1.0)
    return Arm(f"LCM-LoRA ({steps}) fused", steps, "none", 1, made, "merged: a plain U-Net")


def sun(pipeline: Any, steps: int, *, add_pos: bool = False) -> Arm:
    """SUN in the paper's form, or the released one with a second branch."""
    own = _own(pipeline, sharing_copy(pipeline.unet), ddim().solver)
    adapter = SunAdapter.for_unet(own.unet, add_pos=add_pos)
    adapter.to(own.unet.device, own.unet.dtype).requires_grad_(False)
    load_sun(own, adapter)
    own.set_progress_bar_config(disable=True)
    # any scale above 1 makes the sampler pass the negative texts; SUN itself has none
    made = PipelineSampler(own, SampleSettings(steps, 2.0))
    name, note = (" released form", "two branches") if add_pos else ("", "the paper's form")
    return Arm(f"SUN ({steps}){name}", steps, "none", 2, made, note)


def arms(pipeline: Any) -> list[Arm]:
    """Every row of Table 3, and those that it leaves out: LCM-LoRA fused, SUN as released."""
    quick = (guided, guided_distill, lcm_lora, lcm_lora_fused, sun)
    made = [guided(pipeline, 25), unbatched(pipeline, 25), *(make(pipeline, 4) for make in quick)]
    return [*made, sun(pipeline, 4, add_pos=True)]
