"""SUN as a method of the benchmark: one evaluation a step, negative prompts included."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub import constants, try_to_load_from_cache

from sunbench import zoo
from sunbench.errors import NotAvailable, UserError
from sunbench.methods.sun.adapter import bound, check_plain, shapes_of
from sunbench.methods.sun.files import about_adapter, check_adapter
from sunbench.methods.sun.pipelines import (
    OFFICIAL,
    SOLVERS,
    adapter_file,
    check_pipeline,
    is_loaded,
    load_sun,
)
from sunbench.models.checkpoint import Shape, architecture_of
from sunbench.models.hashes import file_hash
from sunbench.sampling import PipelineMethod, PipelineSampler, SampleSettings

#: Names an adapter, a file or owner/name:file, that is used in place of every other.
VARIABLE = "SUNBENCH_SUN"


def _shipped() -> Path | None:
    path = zoo.weights() / "sun.safetensors"
    return path if path.is_file() else None


def _fetched() -> Path | None:
    repo, _, name = OFFICIAL.partition(":")
    path = try_to_load_from_cache(repo, name, cache_dir=constants.HF_HUB_CACHE)
    return Path(path) if isinstance(path, str) else None


def adapter_files() -> dict[str, Path]:
    """Adapters at hand by architecture; "any" is the one that the environment names.

    Only that one is ever fetched: a benchmark must not start downloads that nobody asked for.
    """
    given = os.environ.get(VARIABLE)
    if given:
        return {"any": adapter_file(given)}
    found = {"zoo": _shipped(), "sd1": _fetched()}
    return {architecture: path for architecture, path in found.items() if path is not None}


def _architecture(unet: Any) -> str:
    width = max(width for _, width in shapes_of(unet).values())
    return architecture_of(Shape(width, unet.config.in_channels), "the U-Net")


def _lacking(architecture: str) -> NotAvailable:
    ways = {
        "zoo": "sunbench train sun",
        "sd1": f"hf download {OFFICIAL.replace(':', ' ')}",
    }
    how = f": {ways[architecture]}" if architecture in ways else ""
    named = "the zoo" if architecture == "zoo" else architecture
    return NotAvailable(f"no SUN adapter for {named} yet{how} (or name a file in {VARIABLE})")


def find_adapter(unet: Any) -> Path:
    """The adapter for a U-Net; UserError where none is at hand or it does not fit."""
    files = adapter_files()
    architecture = _architecture(unet)
    path = files.get("any") or files.get(architecture)
    if path is None:
        raise _lacking(architecture)
    check_adapter(path, unet)
    return path


def _about(path: Path, norm: str | None) -> dict[str, str]:
    form, own = about_adapter(path)
    return {"sha256": file_hash(path), "form": form, "norm": norm or own}


@dataclass(frozen=True)
class SunMethod(PipelineMethod):
    """A SUN adapter under one of its solvers; guidance is what the adapter was trained with.

    norm: None takes what the adapter's file says, "sample" where it says nothing.
    """

    norm: str | None = None
    training: ClassVar[str] = "once a base"

    def trained_weights(self, pipeline: Any) -> tuple[Path, str] | None:
        """The adapter."""
        return find_adapter(pipeline.unet), "sun"

    def content(self) -> dict[str, Any]:
        """For the cell's key: the adapters at hand by hash, form and norm, and the solver."""
        try:
            files = adapter_files()
        except NotAvailable:  # ``skip`` gives it as its reason
            files = {}
        adapters = {name: _about(path, self.norm) for name, path in sorted(files.items())}
        return {**super().content(), "guidance": "sun", "adapters": adapters}

    def skip(self, pipeline: Any, settings: SampleSettings) -> str | None:
        """No adapter at hand, or a pipeline, task or number of steps that it cannot run."""
        reason = super().skip(pipeline, replace(settings, guidance_scale=1.0))
        if reason is not None:
            return reason
        try:
            if is_loaded(pipeline):
                raise UserError("the pipeline has a SUN adapter of its own, unload_sun it first")
            check_pipeline(pipeline)
            if bound(pipeline.unet) is None:
                check_plain(pipeline.unet)
            find_adapter(pipeline.unet)
        except UserError as error:
            return str(error)
        return None

    def evaluations(self, settings: SampleSettings) -> int:
        """One a step, whatever the guidance: the adapter stands for it."""
        return settings.steps

    def prepare(self, pipeline: Any, settings: SampleSettings) -> PipelineSampler:
        """Load the adapter; the pipeline's own class and scheduler are not touched."""
        self.release(pipeline)
        own = copy.copy(pipeline)
        load_sun(own, find_adapter(pipeline.unet), norm=self.norm, solver=None)
        own.scheduler = self.solver.build(pipeline.scheduler.config)
        own.set_progress_bar_config(disable=True)
        # any scale above 1 makes the sampler pass the negative texts; SUN itself has none
        return PipelineSampler(own, replace(settings, guidance_scale=2.0))

    def release(self, pipeline: Any) -> None:
        """Take the adapter out of the U-Net."""
        while (binding := bound(pipeline.unet)) is not None:
            binding.release()


def sun() -> SunMethod:
    """SUN with DDIM on trailing timesteps."""
    return SunMethod("sun", SOLVERS["ddim"])


def sun_dpm_pp() -> SunMethod:
    """SUN with DPM-Solver++(2M) on trailing timesteps, as in the authors' demo."""
    return SunMethod("sun-dpm++", SOLVERS["dpm++"])
