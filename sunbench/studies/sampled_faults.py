"""Faults of sampling itself: a run's own method sampled again with one thing wrong."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sunbench.bench.cells import PlannedCell, plan_cell
from sunbench.bench.runner import Runner
from sunbench.errors import UserError
from sunbench.models.protocols import Pipeline
from sunbench.sampling import Method, SolverSpec
from sunbench.studies.sampled import images_of

if TYPE_CHECKING:
    from sunbench.models import LoadedModel
    from sunbench.prompts import PromptSet

#: Images that one norm sees together.
COUPLED = 8
#: Batch size of the honest re-run; a run's own is another.
RERUN_BATCH = 3
#: Another family's scaling factor over this one's: SDXL's 0.13025 in place of SD's 0.18215.
SCALING = 0.13025 / 0.18215


@dataclass(frozen=True)
class Asked:
    """What an honest cell was asked for; every fault changes one of it."""

    loaded: LoadedModel
    prompts: PromptSet
    method: Method
    steps: int
    guidance_scale: float
    seeds: tuple[int, ...]

    def plan(self) -> PlannedCell:
        """The cell."""
        return plan_cell(
            self.loaded,
            self.prompts,
            self.method,
            self.steps,
            seeds=self.seeds,
            guidance_scale=self.guidance_scale,
        )

    def sampled(self, batch: int = COUPLED) -> Tensor:
        """Its images, (N, 3, H, W) uint8 in image order; kept nowhere."""
        planned = self.plan()
        if planned.skip is not None:
            raise UserError(f"{planned.cell.label}: {planned.skip}")
        with tempfile.TemporaryDirectory() as folder:
            (handle,) = Runner(self.loaded, Path(folder), batch=batch).run([planned])
            return images_of(handle)


def sampled_faults(asked: Asked) -> dict[str, Tensor]:
    """Fault -> images; those that do not apply to the method are left out."""
    out = {}
    for name, (change, patch) in FAULTS.items():
        wrong = change(asked)
        if wrong is None or wrong.plan().skip is not None:
            continue
        with patch(asked.loaded.pipeline):
            out[name] = wrong.sampled()
    return out


# ------------------------------------------------------------------------------ what is asked


def _half_the_steps(asked: Asked) -> Asked | None:
    return replace(asked, steps=asked.steps // 2) if asked.steps > 1 else None


def _without_guidance(asked: Asked) -> Asked | None:
    return replace(asked, guidance_scale=1.0) if asked.guidance_scale > 1 else None


def _other_spacing(asked: Asked) -> Asked | None:
    """Leading timesteps where the method's are others, else trailing."""
    solver = getattr(asked.method, "solver", None)
    spacing = dict(solver.settings).get("timestep_spacing") if solver is not None else None
    if not isinstance(solver, SolverSpec) or spacing is None:
        return None
    wrong = "trailing" if spacing == "leading" else "leading"
    settings = {**dict(solver.settings), "timestep_spacing": wrong}
    other = SolverSpec.of(solver.own or solver.scheduler, settings)
    return replace(asked, method=replace(asked.method, solver=other))  # type: ignore[type-var]


# ------------------------------------------------------------------------------ networks


@contextmanager
def _coupled_norms(pipeline: Pipeline) -> Iterator[None]:
    """Every group norm of the U-Net takes its statistics over the batch instead of one image."""

    def forward(norm: nn.GroupNorm, x: Tensor) -> Tensor:
        channels_first = x.transpose(0, 1).reshape(1, x.shape[1], -1)
        y = nn.functional.group_norm(channels_first, norm.num_groups, norm.weight, norm.bias)
        return y.reshape(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1).contiguous()

    norms = [m for m in pipeline.unet.modules() if isinstance(m, nn.GroupNorm)]
    for norm in norms:
        norm.__dict__["forward"] = forward.__get__(norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.__dict__["forward"]


@contextmanager
def _rounded_decoder(pipeline: Pipeline) -> Iterator[None]:
    """The autoencoder's decoder with weights of 4 bits: another autoencoder, nearly the same."""
    kept = {name: p.detach().clone() for name, p in pipeline.vae.decoder.named_parameters()}
    with torch.no_grad():
        for p in pipeline.vae.decoder.parameters():
            step = p.abs().max() / 7
            p.copy_((p / step).round() * step if step > 0 else p)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, p in pipeline.vae.decoder.named_parameters():
                p.copy_(kept[name])


@contextmanager
def _other_scaling(pipeline: Pipeline) -> Iterator[None]:
    """Latents scaled as another family of autoencoders scales them."""
    own = pipeline.vae.config.scaling_factor
    pipeline.vae.register_to_config(scaling_factor=own * SCALING)
    try:
        yield
    finally:
        pipeline.vae.register_to_config(scaling_factor=own)


Change = Callable[[Asked], "Asked | None"]
Patch = Callable[[Any], AbstractContextManager[None]]


def _same(asked: Asked) -> Asked:
    return asked


#: Name -> what is asked instead, and what is done to the pipeline meanwhile.
FAULTS: dict[str, tuple[Change, Patch]] = {
    "half of the steps": (_half_the_steps, nullcontext),
    "without guidance": (_without_guidance, nullcontext),
    "other timestep spacing": (_other_spacing, nullcontext),
    "norms over the batch": (_same, _coupled_norms),
    "autoencoder of 4 bits": (_same, _rounded_decoder),
    "autoencoder's scaling of SDXL": (_same, _other_scaling),
}
