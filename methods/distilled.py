"""What methods with trained weights share: where the weights are, and a U-Net of their own.

Weights come from the environment, the zoo or the hub's cache, in this order. Only what the
environment names is ever fetched: a benchmark must not start downloads that nobody asked for.

``guidance_scale`` g means one thing to the user: the g of e_n + g (e_p - e_n), which distilled
methods imitate. LCM and Guided-Distill write it as g = 1 + w and take w as an input; the others
hold the guidance that they were trained with.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub import constants, try_to_load_from_cache

from sunbench import zoo
from sunbench.errors import NotAvailable, UserError
from sunbench.models.catalogue import Place, place
from sunbench.models.checkpoint import Shape, architecture_of
from sunbench.models.hub import fetch_file, fetch_folder
from sunbench.sampling import PipelineMethod, PipelineSampler, SampleSettings, too_many
from sunbench.store.tensors import read_header

#: Before the name of a model, of weights that were trained on it alone.
OWN = "own:"
#: Files of a w-conditioned U-Net in a repository, or of several in folders named by their steps.
STUDENT_FILES = re.compile(
    r"(\d+/)?(unet/)?(config\.json|diffusion_pytorch_model[^.]*\.safetensors)"
)


def shape_of(unet: Any) -> Shape:
    """The two numbers that tell the families of U-Nets apart."""
    width = unet.config.cross_attention_dim
    return Shape(width if isinstance(width, int) else max(width), unet.config.in_channels)


def metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says about itself."""
    return read_header(path).metadata


def trained_on(path: Path, unet: Any) -> bool:
    """Whether weights, or the first of a folder's, were trained on just this U-Net."""
    wanted = getattr(unet, "weights_sha256", None)  # set by ``models.load``
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    if wanted is None or not files:
        return False
    base: dict[str, str] = json.loads(metadata(files[0]).get("base_sha256", "{}"))
    return base.get("unet") == wanted


def trained_guidance(path: Path) -> float | None:
    """The one guidance_scale that a file's weights imitate; None where it does not say."""
    given = metadata(path).get("guidance_scale")
    try:
        return None if given is None else float(given)
    except ValueError:
        raise UserError(f"{path}: its guidance_scale is {given!r}, expected a number") from None


def _student_files(names: Sequence[str]) -> list[str]:
    found = [name for name in names if STUDENT_FILES.fullmatch(name)]
    chosen = [name for name in found if "unet/" in name] or found
    if not any(name.endswith(".safetensors") for name in chosen):
        raise UserError("the repository has no U-Net in .safetensors")
    return chosen


@dataclass(frozen=True)
class Weights:
    """What a method needs beside the model, and where it may be.

    method: stem of its file or folder in the zoo, and of the environment variable.
    published: owner/name of the authors' weights for Stable Diffusion 1, and ``file`` in it.
    of: what the published weights are, where that is not the model they are run on.
    folders: whether the weights may be a folder.
    """

    method: str
    published: str = ""
    file: str = ""
    of: str = ""
    folders: bool = False

    @property
    def variable(self) -> str:
        """The environment variable that names weights to use in place of every other."""
        return "SUNBENCH_" + self.method.upper().replace("-", "_")

    def at_hand(self) -> dict[str, Path]:
        """Weights by architecture, or by the zoo's model that they were trained on.

        "any" are those that the environment names.
        """
        given = os.environ.get(self.variable)
        if given:
            return {"any": self._named(given)}
        found = {"zoo": self._shipped(zoo.weights()), "sd1": self._fetched(), **self._own()}
        return {architecture: path for architecture, path in found.items() if path is not None}

    def find(self, unet: Any) -> Path:
        """The weights for a U-Net: those trained on it, else those for its architecture.

        Raises NotAvailable, which says how to get them.
        """
        files = self.at_hand()
        architecture = architecture_of(shape_of(unet), "the U-Net")
        own = [p for name, p in files.items() if name.startswith(OWN) and trained_on(p, unet)]
        path = files.get("any") or (own[0] if own else files.get(architecture))
        if path is None:
            raise self._lacking(architecture)
        return path

    def about(self, describe: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """For the cell's key: every weight at hand, described; {} where ``skip`` has a reason."""
        try:
            files = self.at_hand()
            return {name: {**describe(p), **self.label(p)} for name, p in sorted(files.items())}
        except UserError:
            return {}

    def label(self, path: Path) -> dict[str, str]:
        """What published weights really are; nothing for any others."""
        cached = f"models--{self.published.replace('/', '--')}"
        return {"of": self.of} if self.of and cached in path.parts else {}

    def _own(self) -> dict[str, Path | None]:
        """The zoo's weights for single models: ``own/MODEL/METHOD``."""
        place = zoo.weights() / "own"
        models = sorted(place.iterdir()) if place.is_dir() else []
        return {f"{OWN}{folder.name}": self._shipped(folder) for folder in models}

    def _shipped(self, place: Path) -> Path | None:
        file, folder = place / f"{self.method}.safetensors", place / self.method
        if file.is_file():
            return file
        return folder if self.folders and folder.is_dir() else None

    def _fetched(self) -> Path | None:
        if not self.published:
            return None
        path = try_to_load_from_cache(self.published, self.file, cache_dir=constants.HF_HUB_CACHE)
        if not isinstance(path, str):
            return None
        return Path(path).parents[self.file.count("/")] if self.folders else Path(path)

    def _named(self, spec: str) -> Path:
        found = place(spec, f"{self.method} weights")
        if found.kind == "hub":
            return self._from_hub(found)
        if found.kind == "folder" and not self.folders:
            raise UserError(
                f"{self.variable} names {spec!r}, a folder, expected a .safetensors file"
            )
        return Path(found.id)

    def _from_hub(self, found: Place) -> Path:
        if self.folders and found.file is None:
            return fetch_folder(found.id, found.revision, _student_files)
        if not (found.file or self.file):
            raise UserError(
                f"{self.variable} names {found.id}, expected owner/name:FILE.safetensors"
            )
        return fetch_file(found.id, found.revision, found.file or self.file)

    def _lacking(self, architecture: str) -> NotAvailable:
        what = "'unet/*'" if self.folders else self.file
        include = "--include " if self.folders else ""
        fetch = f": hf download {self.published} {include}{what}" if self.published else ""
        how = fetch if architecture == "sd1" else ""
        named = "the zoo" if architecture == "zoo" else architecture
        return NotAvailable(
            f"no {self.method} weights for {named} yet{how} (name some in {self.variable})"
        )


@dataclass(frozen=True)
class DistilledMethod(PipelineMethod):
    """A solver on a U-Net that trained weights make or change.

    grid: the most steps that the distillation had; None leaves the training schedule's number.
    """

    weights: Weights
    grid: int | None = None
    training: ClassVar[str] = "once a base"

    @property
    def negative_prompts(self) -> bool:
        """The student has learned guidance against the empty text alone."""
        return False

    def trained_weights(self, pipeline: Any) -> tuple[Path, str] | None:
        """Those at hand for the pipeline's architecture."""
        return self.weights.find(pipeline.unet), self.weights.method

    def check(self, pipeline: Any, settings: SampleSettings) -> None:
        """Raise UserError unless the weights are at hand, fit and can take the settings."""
        raise NotImplementedError

    def network(self, pipeline: Any, settings: SampleSettings) -> Any:
        """The U-Net to sample with, beside the pipeline's own, which stays as it is."""
        raise NotImplementedError

    def scale(self, settings: SampleSettings) -> float:
        """The guidance_scale with which diffusers' pipeline is called."""
        return settings.guidance_scale

    def describe(self, path: Path) -> dict[str, Any]:
        """Weights for the cell's key."""
        raise NotImplementedError

    def content(self) -> dict[str, Any]:
        """For the cell's key: the solver and every weight at hand by its hash."""
        about = self.weights.about(self.describe)
        return {**super().content(), "guidance": "distilled", "distilled": about}

    def skip(self, pipeline: Any, settings: SampleSettings) -> str | None:
        """No weights at hand, weights that do not fit, or a setting that they cannot take."""
        reason = super().skip(pipeline, replace(settings, guidance_scale=1.0))
        if reason is not None:
            return reason
        if self.grid is not None and settings.asked > self.grid:
            return too_many(settings, f"the LCM grid has {self.grid}")
        try:
            self.check(pipeline, settings)
        except UserError as error:
            return str(error)
        return None

    def evaluations(self, settings: SampleSettings) -> int:
        """One a step."""
        return settings.steps

    def prepare(self, pipeline: Any, settings: SampleSettings) -> PipelineSampler:
        """Put the U-Net beside the pipeline's; UserError where ``skip`` has a reason."""
        reason = self.skip(pipeline, settings)
        if reason is not None:
            raise UserError(reason)
        own = copy.copy(pipeline)
        own.unet = self.network(pipeline, settings)
        own.scheduler = self.solver.build(pipeline.scheduler.config)
        own.set_progress_bar_config(disable=True)
        return PipelineSampler(own, replace(settings, guidance_scale=self.scale(settings)))
