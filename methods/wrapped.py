"""Any method with its U-Net compiled (``compile:NAME``) or its weights in int8 (``int8:NAME``).

Both change no setting of the method. Compiled code rounds in another order and int8 rounds the
weights, so images move: at 25 steps ``compile:dpm++`` and ``int8:dpm++`` measure by how much, since
``dpm++`` is the reference there.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sunbench.errors import UserError
from sunbench.models.protocols import Pipeline
from sunbench.sampling import Method, PipelineMethod, PipelineSampler, SampleSettings


@dataclass(frozen=True)
class WrappedMethod:
    """A method whose network is changed in place between ``prepare`` and ``release``.

    What a method builds anew at every ``prepare`` is built once and held here, so that it is
    compiled once.
    """

    inner: PipelineMethod
    prefix: ClassVar[str] = ""
    #: Whether it is there to make each pass faster.
    faster: ClassVar[bool] = True
    _held: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    _changed: list[nn.Module] = field(default_factory=list, compare=False, repr=False)

    @property
    def name(self) -> str:
        """Prefix and name."""
        return f"{self.prefix}:{self.inner.name}"

    @property
    def training(self) -> str:
        """The method's."""
        return self.inner.training

    @property
    def negative_prompts(self) -> bool:
        """The method's."""
        return self.inner.negative_prompts

    @property
    def fixed_layers(self) -> bool:
        """The method's."""
        return self.inner.fixed_layers

    @property
    def plain_unet(self) -> bool:
        """The method's."""
        return self.inner.plain_unet

    @property
    def cheaper_passes(self) -> bool:
        """Whether a pass may take less time: compiled and int8 do, others as the method alone."""
        return self.faster or bool(self.inner.cheaper_passes)

    @property
    def nfe_varies(self) -> bool:
        """The method's."""
        return self.inner.nfe_varies

    def trained_weights(self, pipeline: Pipeline) -> tuple[Path, str] | None:
        """The method's."""
        return self.inner.trained_weights(pipeline)

    def evaluations(self, settings: SampleSettings) -> int:
        """The method's."""
        return self.inner.evaluations(settings)

    def expected_nfe(self, pipeline: Pipeline, settings: SampleSettings) -> float:
        """The method's."""
        return self.inner.expected_nfe(pipeline, settings)

    def about(self) -> dict[str, object]:
        """The wrapper for the cell's key."""
        raise NotImplementedError

    def unavailable(self, device: torch.device) -> str | None:
        """Why the wrapper cannot work on a device; None when it can."""
        raise NotImplementedError

    def change(self, network: nn.Module) -> None:
        """Change a network in place."""
        raise NotImplementedError

    def restore(self, network: nn.Module) -> None:
        """Undo it."""
        raise NotImplementedError

    def content(self, pipeline: Pipeline, settings: SampleSettings) -> dict[str, object]:
        """The method's, under this name, and the wrapper."""
        inner = self.inner.content(pipeline, settings)
        return {**inner, "method": self.name, self.prefix: self.about()}

    def skip(self, pipeline: Pipeline, settings: SampleSettings) -> str | None:
        """As the method; the wrapper is not available, or the method's layers change as it runs."""
        if not self.inner.fixed_layers:
            return f"{self.name}: the layers of {self.inner.name} change from step to step"
        reason = self.inner.skip(pipeline, settings)
        return reason or self.unavailable(pipeline.unet.device)

    def prepare(self, pipeline: Pipeline, settings: SampleSettings) -> PipelineSampler:
        """The method's sampler, its network changed."""
        self.release(pipeline)
        if (reason := self.skip(pipeline, settings)) is not None:
            raise UserError(reason)
        sampler = self.inner.prepare(pipeline, settings)
        network = sampler.counted
        if network is not pipeline.unet and sampler.pipeline.unet is network:
            network = self._held.setdefault((id(pipeline.unet), settings), network)
            sampler.pipeline.unet = sampler.counted = network
        self.change(network)
        self._changed.append(network)
        return sampler

    def release(self, pipeline: Pipeline) -> None:
        """Give the networks back as they were."""
        while self._changed:
            self.restore(self._changed.pop())
        self.inner.release(pipeline)


# ------------------------------------------------------------------------------ compile


@lru_cache(maxsize=8)
def compiler_missing(kind: str) -> str | None:
    """Why nothing can be compiled for a kind of device, by trying; None when it can."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(8, device=kind))
    except Exception as error:  # whatever a compiler's absence looks like on this machine
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        return f"torch.compile does not work here ({type(error).__name__}: {first[:120]})"
    return None


@dataclass(frozen=True)
class CompiledMethod(WrappedMethod):
    """The U-Net through ``torch.compile``; the first batch of each shape takes the compiling."""

    prefix: ClassVar[str] = "compile"

    def about(self) -> dict[str, object]:
        """The compiler's version."""
        return {"backend": "inductor", "torch": torch.__version__}

    def unavailable(self, device: torch.device) -> str | None:
        """No compiler for the device."""
        return compiler_missing(device.type)

    def change(self, network: nn.Module) -> None:
        """Compile its forward; hooks of the network stay outside."""
        network.forward = torch.compile(network.forward)

    def restore(self, network: nn.Module) -> None:
        """Its class's forward again; what was compiled is found again at the next change."""
        del network.forward


# ------------------------------------------------------------------------------ int8


@dataclass(frozen=True)
class Int8Method(WrappedMethod):
    """Weights of linear layers as int8 with a scale for each output channel, by torchao."""

    prefix: ClassVar[str] = "int8"
    _weights: dict[nn.Module, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def about(self) -> dict[str, object]:
        """What does it, and its version."""
        import torchao

        return {"weights": "int8, linear layers", "torchao": torchao.__version__}

    def unavailable(self, device: torch.device) -> str | None:
        """torchao is not installed."""
        if importlib.util.find_spec("torchao") is None:
            return "int8 weights need torchao: pip install torchao"
        return None

    def content(self, pipeline: Pipeline, settings: SampleSettings) -> dict[str, object]:
        """As every wrapper's; without torchao, which ``skip`` gives as its reason, the method's."""
        if self.unavailable(pipeline.unet.device) is not None:
            return {**self.inner.content(pipeline, settings), "method": self.name}
        return super().content(pipeline, settings)

    def change(self, network: nn.Module) -> None:
        """Quantize its linear layers, and keep their own weights aside."""
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        linear = [m for m in network.modules() if isinstance(m, nn.Linear)]
        self._weights.update({m: m.weight for m in linear})
        quantize_(network, Int8WeightOnlyConfig())

    def restore(self, network: nn.Module) -> None:
        """Their own weights again."""
        while self._weights:
            module, weight = self._weights.popitem()
            module.weight = weight


def wrappable(inner: Method) -> PipelineMethod:
    """The method, if a wrapper can work on it; UserError otherwise."""
    if not isinstance(inner, PipelineMethod | WrappedMethod):
        raise UserError(f"given {inner.name} to wrap, expected a method on a diffusers pipeline")
    return inner  # type: ignore[return-value]


def compiled(inner: Method) -> CompiledMethod:
    """The method with its U-Net compiled."""
    return CompiledMethod(wrappable(inner))


def int8(inner: Method) -> Int8Method:
    """The method with int8 weights."""
    return Int8Method(wrappable(inner))
