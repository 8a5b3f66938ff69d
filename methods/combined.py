"""A method on another network: ``bk-sdm-base+lcm-lora``, ``a-sdm-m2+ddim``.

The other method takes the pruned U-Net for the model's own. Weights that were trained on just that
network fit as they are. A LoRA, biases or a SUN adapter of the *unpruned* U-Net are carried over
by the rule of surgery where the pruned one keeps the layer; what its lost layers had is lost.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from sunbench.errors import UserError
from sunbench.methods.bk_sdm.method import PrunedMethod
from sunbench.methods.bk_sdm.surgery import CUTS, stages_of, teacher_name
from sunbench.methods.common.condconv import EXPERTS
from sunbench.methods.common.method import MergedMethod
from sunbench.methods.common.students import StudentMethod
from sunbench.methods.sun.adapter import SunAdapter, shapes_of
from sunbench.methods.sun.files import read_adapter
from sunbench.methods.sun.method import SunMethod
from sunbench.methods.sun.pipelines import load_sun
from sunbench.models.protocols import Pipeline
from sunbench.sampling import PipelineMethod, PipelineSampler, SampleSettings
from sunbench.sampling.pipeline import with_network


def _with_unet(pipeline: Pipeline, unet: Any) -> Any:
    own = copy.copy(pipeline)
    own.unet = unet
    return own


@torch.no_grad()
def carried_over(student: Any, unet: Any, changed: Any, cut: str) -> Any:
    """Add to a student what a method changed in the unpruned U-Net, layer by layer, in float32.

    A mixture's experts all get what their convolution got.
    """
    before, after, stages = unet.state_dict(), changed.state_dict(), stages_of(unet.config)
    for name, own in student.named_parameters():
        conv, _, leaf = name.rpartition(".")
        source = teacher_name(f"{conv}.weight" if leaf == EXPERTS else name, CUTS[cut], stages)
        if after[source].data_ptr() == before[source].data_ptr():
            continue
        delta = after[source].float() - before[source].float()
        if leaf == EXPERTS:
            delta = torch.cat([delta] * (len(own) // len(delta)))
        own.copy_((own.float() + delta).to(own.dtype))
    return student


def carried_adapter(path: Path, student: Any, unet: Any, cut: str, norm: str | None) -> SunAdapter:
    """A SUN adapter of the unpruned U-Net for a student: the layers that it keeps."""
    whole, stages = read_adapter(path, unet, norm=norm), stages_of(unet.config)
    form: dict[str, Any] = {"add_pos": whole.add_pos, "norm": whole.norm}
    adapter = SunAdapter(shapes_of(student), **form)
    tensors: dict[str, Tensor] = whole.state_dict()
    own = {k: tensors[teacher_name(k, CUTS[cut], stages)] for k in adapter.state_dict()}
    adapter.load_state_dict(own, assign=True)
    return adapter


@dataclass(frozen=True)
class CombinedMethod:
    """A method on a pruned network."""

    name: str
    network: PrunedMethod
    method: Any
    cheaper_passes: ClassVar[bool] = True

    @property
    def negative_prompts(self) -> bool:
        """The same as for the method alone."""
        return bool(self.method.negative_prompts)

    @property
    def training(self) -> str:
        """The network is trained once for a base; the method may need more."""
        return self.network.training if self.method.training == "none" else self.method.training

    @property
    def nfe_varies(self) -> bool:
        """The same as for the method alone."""
        return bool(self.method.nfe_varies)

    @property
    def fixed_layers(self) -> bool:
        """The same as for the method alone."""
        return bool(self.method.fixed_layers)

    def expected_nfe(self, pipeline: Pipeline, settings: SampleSettings) -> float:
        """The same as for the method alone."""
        return float(self.method.expected_nfe(pipeline, settings))

    def trained_weights(self, pipeline: Pipeline) -> tuple[Path, str] | None:
        """The network's; the method's own are in the content."""
        return self.network.trained_weights(pipeline)

    def _fit(self, pipeline: Pipeline, settings: SampleSettings) -> str:
        """ "own" where the method's weights are for the student, "carried" for the unpruned U-Net.

        Raises UserError, one line, where the two cannot be combined.
        """
        if (
            reason := self.network.skip(pipeline, replace(settings, guidance_scale=1.0))
        ) is not None:
            raise UserError(reason)
        if not isinstance(self.method, PipelineMethod) or isinstance(self.method, StudentMethod):
            raise UserError(f"{self.name}: {self.method.name} has a network of its own")
        student = _with_unet(pipeline, self.network.empty(pipeline))
        reason = self.method.skip(student, settings)
        if reason is None:
            return "own"
        carries = isinstance(self.method, MergedMethod | SunMethod)
        if carries and self.method.skip(pipeline, settings) is None:
            return "carried"
        raise UserError(f"{self.name}: {reason}")

    def content(self, pipeline: Pipeline, settings: SampleSettings) -> dict[str, object]:
        """What shapes the images, for the cell's key: both, and how weights came to the network."""
        try:
            fit = self._fit(pipeline, settings)
        except UserError:  # ``skip`` gives it as its reason
            fit = "none"
        return {
            **self.method.content(pipeline, settings),
            "method": self.name,
            "network": self.network.content(pipeline, settings),
            "fit": fit,
        }

    def skip(self, pipeline: Pipeline, settings: SampleSettings) -> str | None:
        """No network, or a method whose weights are neither for it nor for the unpruned one."""
        try:
            self._fit(pipeline, settings)
        except UserError as error:
            return str(error)
        return None

    def evaluations(self, settings: SampleSettings) -> int:
        """The same as for the method alone."""
        return int(self.method.evaluations(settings))

    def prepare(self, pipeline: Pipeline, settings: SampleSettings) -> Any:
        """The method's sampler on the pruned network; the pipeline stays as it is."""
        fit = self._fit(pipeline, settings)
        student = self.network.network(pipeline, settings)
        if fit == "own":
            return self.method.prepare(_with_unet(pipeline, student), settings)
        if isinstance(self.method, SunMethod):
            return self._sun(pipeline, student, settings)
        changed = self.method.network(pipeline, settings)
        student = carried_over(student, pipeline.unet, changed, self.network.cut)
        own = with_network(pipeline, student, self.method.solver)
        return PipelineSampler(own, replace(settings, guidance_scale=self.method.scale(settings)))

    def _sun(self, pipeline: Pipeline, student: Any, settings: SampleSettings) -> PipelineSampler:
        path, method = self.method.used(pipeline, settings), self.method
        adapter = carried_adapter(path, student, pipeline.unet, self.network.cut, method.norm)
        own = with_network(pipeline, student, method.solver)
        load_sun(own, adapter, solver=None)
        # any scale above 1 makes the sampler pass the negative texts; SUN itself has none
        return PipelineSampler(own, replace(settings, guidance_scale=2.0))

    def release(self, pipeline: Pipeline) -> None:
        """Nothing to undo: the network is the sampler's own."""


def combined(name: str, plan: str, parts: dict[str, Any]) -> CombinedMethod:
    """``NETWORK+METHOD``. parts: the two methods by their names."""
    network, method = (parts[part] for part in plan.split("+", 1))
    return CombinedMethod(name, network, method)
