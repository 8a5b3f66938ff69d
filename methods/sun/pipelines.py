"""SUN on diffusers' pipelines: one pass per step, with ``negative_prompt`` as usual."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sunbench.errors import UserError, unknown
from sunbench.methods.ddim import ddim
from sunbench.methods.dpm_solver import dpm_solver_pp
from sunbench.methods.sun.adapter import Binding, SunAdapter
from sunbench.methods.sun.attention import KEYWORD, NegativeText
from sunbench.methods.sun.files import read_adapter
from sunbench.models.catalogue import place
from sunbench.models.hub import fetch_file
from sunbench.models.protocols import Pipeline
from sunbench.sampling import SolverSpec

log = logging.getLogger(__name__)

#: The authors' released adapter, for Stable Diffusion 1.5.
OFFICIAL = "Williechai/SpeedUpNet:sun_adapter_sdv15_4step_addpos.safetensors"

SUPPORTED = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionControlNetPipeline",
    "StableDiffusionControlNetImg2ImgPipeline",
    "StableDiffusionControlNetInpaintPipeline",
)


def _trailing(spec: SolverSpec) -> SolverSpec:
    return SolverSpec.of(spec.scheduler, {**dict(spec.settings), "timestep_spacing": "trailing"})


#: DDIM is what the training loss fits (Eq. 9 and 10); DPM-Solver++ is what the authors' demo runs,
#: with trailing timesteps too.
SOLVERS: dict[str, SolverSpec] = {
    "ddim": ddim().solver,
    "dpm++": _trailing(dpm_solver_pp().solver),
}


@dataclass(frozen=True)
class _State:
    """What ``unload_sun`` needs, and the negative text of the call that is running."""

    kind: type
    scheduler: Any
    binding: Binding
    text: NegativeText | None = None


class _SunPipeline:
    """What a pipeline with SUN does otherwise: a base class set in front of its own.

    ``load_sun`` works in place, as diffusers' ``load_lora_weights``, and Python looks properties
    up in an object's class alone, so that this object has to be of another class for the while.

    The negative embeddings leave ``encode_prompt`` for ``cross_attention_kwargs``, which every
    pipeline hands to its U-Net alone: a ControlNet reads the positive prompt only.
    """

    _sun: _State
    unet: Any
    _cross_attention_kwargs: dict[str, Any] | None

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Never: the adapter stands for it, whatever ``guidance_scale`` says."""
        return False

    @property
    def cross_attention_kwargs(self) -> dict[str, Any] | None:
        """The caller's, and the negative text."""
        own, text = self._cross_attention_kwargs, self._sun.text
        return own if text is None else {**(own or {}), KEYWORD: text}

    def encode_prompt(
        self,
        prompt: Any,
        device: Any,
        num_images_per_prompt: int,
        do_classifier_free_guidance: bool,
        negative_prompt: Any = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        lora_scale: float | None = None,
        clip_skip: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode both texts, as with guidance, and keep the negative one for the U-Net."""
        self._sun.binding.check(self.unet)
        self._sun.binding.adapter.to(device)
        parent: Any = super()
        positive, negative = parent.encode_prompt(
            prompt,
            device,
            num_images_per_prompt,
            True,
            negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            lora_scale=lora_scale,
            clip_skip=clip_skip,
        )
        self._sun = replace(self._sun, text=NegativeText(negative))
        return positive, negative

    def maybe_free_model_hooks(self) -> None:
        """The call's end: forget its text."""
        self._sun = replace(self._sun, text=None)
        parent: Any = super()
        parent.maybe_free_model_hooks()


def is_loaded(pipe: Pipeline) -> bool:
    """Whether ``load_sun`` has been called on this pipeline."""
    return isinstance(pipe, _SunPipeline)


def adapter_file(spec: str | Path) -> Path:
    """The local file of a path or of ``owner/name[@revision][:file]``, which may be fetched."""
    source = place(str(spec), "SUN adapter")
    if source.kind == "file":
        return Path(source.id)
    if source.kind == "hub":
        return fetch_file(source.id, source.revision, source.file or OFFICIAL.partition(":")[2])
    raise UserError(f"given SUN adapter {str(spec)!r}, a folder, expected a .safetensors file")


def check_pipeline(pipe: Pipeline) -> None:
    """Raise UserError for a pipeline that SUN cannot work in."""
    kinds = {kind.__name__ for kind in type(pipe).__mro__}
    if not kinds & set(SUPPORTED) or any("PAG" in kind for kind in kinds):
        raise UserError(
            f"given a {type(pipe).__name__}, expected one of {', '.join(SUPPORTED)}:"
            " SUN cannot be combined with IP-Adapter, PAG or another guidance"
        )
    if pipe.unet.config.time_cond_proj_dim is not None:
        raise UserError("given a U-Net that takes guidance as an input, expected a plain one")
    if pipe.unet.config.encoder_hid_dim_type is not None:
        raise UserError(
            "given a U-Net with an IP-Adapter or another text projection, expected a plain one:"
            " unload it first"
        )


def load_sun(
    pipe: Any,
    path_or_id: str | Path | SunAdapter,
    *,
    norm: str | None = None,
    solver: str | None = "ddim",
) -> SunAdapter:
    """Put a SUN adapter into a pipeline; from then on each step is one U-Net pass.

    Call the pipeline as ever: ``negative_prompt`` and embeddings work, ``guidance_scale`` has no
    effect, LoRAs may be loaded before or after. norm: None takes the file's. solver: "ddim" with
    trailing timesteps, "dpm++" as in the authors' demo, None leaves the pipeline's scheduler.
    Raises UserError in one line for a pipeline or an adapter that does not fit.
    """
    if is_loaded(pipe):
        raise UserError("given a pipeline with a SUN adapter, expected one without; unload_sun it")
    check_pipeline(pipe)
    if solver is not None and solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)
    adapter = _adapter(path_or_id, pipe.unet, norm)
    binding = adapter.bind(pipe.unet)
    kind = type(pipe)
    pipe._sun = _State(kind, pipe.scheduler, binding)
    pipe.__class__ = type(kind.__name__, (_SunPipeline, kind), {"__module__": kind.__module__})
    if solver is not None:
        pipe.scheduler = SOLVERS[solver].build(pipe.scheduler.config)
    log.info("SUN (%s form): %s parameters", adapter.form, f"{adapter.parameter_count:,}")
    return adapter


def _adapter(spec: str | Path | SunAdapter, unet: Any, norm: str | None) -> SunAdapter:
    if isinstance(spec, SunAdapter):
        if norm not in (None, spec.norm):
            raise UserError(f"given norm {norm!r} for an adapter made with {spec.norm!r}")
        return spec
    return read_adapter(adapter_file(spec), unet, norm=norm)


def unload_sun(pipe: Any) -> None:
    """Leave the pipeline as it was before ``load_sun``: class, scheduler, U-Net."""
    if not is_loaded(pipe):
        raise UserError("given a pipeline without a SUN adapter, expected one with")
    state = pipe._sun
    pipe.__class__ = state.kind
    pipe.scheduler = state.scheduler
    state.binding.release()
    del pipe._sun
