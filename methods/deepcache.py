"""DeepCache (Ma et al. 2023, arXiv 2312.00858): deep features of the U-Net are reused.

Every ``interval``-th step runs the whole U-Net and keeps what its up path holds before it meets the
skip connection ``branch``. The steps between run only the layers above: the down layers up to that
connection, and the up layers from it. Skip connection 0 comes from the first convolution, each
later one from the next layer of the down path: any U-Net of Stable Diffusion's kind will do.

NFE: a partial pass counts as its share of a whole pass's operations.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sunbench.errors import UserError
from sunbench.methods.common.guidance import StandInUNet
from sunbench.methods.dpm_solver import dpm_solver_pp
from sunbench.methods.wrapped import WrappedMethod, wrappable
from sunbench.models.protocols import Pipeline
from sunbench.sampling import Method, PipelineMethod, PipelineSampler, SampleBatch, SampleSettings
from sunbench.sampling.pipeline import with_network

#: Every third step is whole, only the outermost layers run between: cache_interval and
#: cache_branch_id in the examples of horseee/DeepCache. Its main results are at interval 5.
INTERVAL, BRANCH = 3, 0
#: What a U-Net may have beyond text and time, which a partial pass does not know.
_UNKNOWN = ("class_embed_type", "addition_embed_type", "encoder_hid_dim_type")


@dataclass(frozen=True)
class Layer:
    """A step of the down or up path: a residual block with its attention, or a change of size."""

    module: nn.Module
    attention: nn.Module | None = None
    upsampler: nn.Module | None = None

    @property
    def channels(self) -> int:
        """That it gives."""
        return int(self.module.out_channels)  # type: ignore[arg-type]


def _with_attention(block: Any) -> Iterator[tuple[nn.Module, nn.Module | None]]:
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    yield from zip(block.resnets, attentions, strict=True)


def down_layers(unet: Any) -> list[Layer]:
    """What makes the skip connections 1, 2, ...; 0 is ``conv_in``."""
    out = []
    for block in unet.down_blocks:
        out += [Layer(resnet, attention) for resnet, attention in _with_attention(block)]
        out += [Layer(module) for module in block.downsamplers or []]
    return out


def up_layers(unet: Any) -> list[Layer]:
    """What meets the skip connections, the last connection first."""
    out = []
    for block in unet.up_blocks:
        pairs = list(_with_attention(block))
        upsampler = block.upsamplers[0] if block.upsamplers else None
        out += [Layer(resnet, attention) for resnet, attention in pairs[:-1]]
        out.append(Layer(*pairs[-1], upsampler))
    return out


class CachedUNet(StandInUNet):
    """A U-Net that runs whole every ``interval`` calls, and above ``branch`` between."""

    def __init__(self, network: Any, interval: int, branch: int) -> None:
        super().__init__(network)
        self.interval, self.branch = interval, branch
        self.down, self.up = down_layers(network)[:branch], up_layers(network)[-branch - 1 :]
        self.calls, self.partial_rows = 0, 0
        self._kept: Tensor | None = None

    def begin(self) -> None:
        """A new batch starts."""
        self.calls, self.partial_rows, self._kept = 0, 0, None

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **more: Any
    ) -> tuple[Tensor]:
        """Predicted noise (B, C, h, w)."""
        whole = self.calls % self.interval == 0
        self.calls += 1
        if whole:
            return self._whole(sample, timestep, encoder_hidden_states, **more)
        self.partial_rows += len(sample)
        return (self.partial(sample, timestep, encoder_hidden_states, **more),)

    def _whole(self, *args: Any, **more: Any) -> tuple[Tensor]:
        skip = self.down[-1].channels if self.down else int(self.network.conv_in.out_channels)

        def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._kept = inputs[0][:, :-skip]

        handle = self.up[0].module.register_forward_pre_hook(keep)
        try:
            out: tuple[Tensor] = self.network(*args, **{**more, "return_dict": False})
        finally:
            handle.remove()
        return out

    def partial(
        self,
        sample: Tensor,
        timestep: Tensor,
        text: Tensor,
        timestep_cond: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        down_block_additional_residuals: tuple[Tensor, ...] | None = None,
        **more: Any,
    ) -> Tensor:
        """The layers above the branch, on what the last whole pass kept below it."""
        net, x = self.network, self._kept
        assert x is not None
        time = net.time_embedding(
            net.get_time_embed(sample=sample, timestep=timestep), timestep_cond
        )
        if net.time_embed_act is not None:
            time = net.time_embed_act(time)
        skips = [net.conv_in(sample)]
        for layer in self.down:
            skips.append(_run(layer, skips[-1], time, text, cross_attention_kwargs))
        for k, extra in enumerate((down_block_additional_residuals or ())[: len(skips)]):
            skips[k] = skips[k] + extra
        for layer in self.up:
            x = torch.cat([x, skips.pop()], 1)
            x = _run(layer, x, time, text, cross_attention_kwargs)
            if layer.upsampler is not None:
                x = _enlarged(layer.upsampler, x, skips[-1])
        if net.conv_norm_out is not None:
            x = net.conv_act(net.conv_norm_out(x))
        out: Tensor = net.conv_out(x)
        return out


def _run(layer: Layer, x: Tensor, time: Tensor, text: Tensor, attention: Any) -> Tensor:
    if not hasattr(layer.module, "time_emb_proj"):  # a change of size
        out: Tensor = layer.module(x)
        return out
    x = layer.module(x, time)
    if layer.attention is None:
        return x
    attended: Tensor = layer.attention(
        x, encoder_hidden_states=text, cross_attention_kwargs=attention, return_dict=False
    )[0]
    return attended


def _enlarged(upsampler: nn.Module, x: Tensor, skip: Tensor) -> Tensor:
    """Twice as large, or as large as the skip connection where that is of odd size."""
    size = skip.shape[-2:]
    even = (2 * x.shape[-2], 2 * x.shape[-1]) == tuple(size)
    out: Tensor = upsampler(x, None if even else size)
    return out


# ------------------------------------------------------------------------------ share of a pass


def partial_share(unet: Any, branch: int, side: int, tokens: int) -> float:
    """A partial pass's share of a whole pass's operations, for latents of side x side.

    Counted on a copy without weights; by matrix products, convolutions and attention.
    """
    config = tuple(sorted((k, str(v)) for k, v in unet.config.items()))
    return _share(config, branch, side, tokens, _Config(unet.config))


class _Config(dict[str, Any]):
    """A U-Net's config that does not count among the arguments of a cached call."""

    def __hash__(self) -> int:  # type: ignore[override]
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Config)


@lru_cache(maxsize=64)
def _share(key: Any, branch: int, side: int, tokens: int, config: _Config) -> float:
    with torch.device("meta"), torch.no_grad():
        plain = {k: v for k, v in config.items() if not k.startswith("_")}
        unet = CachedUNet(UNet2DConditionModel.from_config(plain).eval(), 2, branch)
        width = unet.config.cross_attention_dim
        width = width if isinstance(width, int) else max(width)
        sample = torch.zeros(1, unet.config.in_channels, side, side)
        inputs = sample, torch.zeros(1), torch.zeros(1, tokens, width)
        counts = []
        for _ in ("whole", "partial"):
            with FlopCounterMode(display=False) as counter:
                unet(*inputs)
            counts.append(counter.get_total_flops())
    return counts[1] / counts[0]


# ------------------------------------------------------------------------------ method


class CacheSampler(PipelineSampler):
    """Tells the U-Net when a batch starts; adds the partial passes by their share."""

    def __init__(self, pipeline: Pipeline, settings: SampleSettings, unet: CachedUNet) -> None:
        super().__init__(pipeline, settings, counted=unet.network)
        self._unet = unet

    def sample(self, batch: SampleBatch) -> Tensor:
        """Denoise a batch; see ``Sampler.sample``."""
        self._unet.begin()
        out = super().sample(batch)
        side, tokens = int(batch.latents.shape[-1]), int(batch.prompt_embeds.shape[1])
        share = partial_share(self._unet.network, self._unet.branch, side, tokens)
        self._nfe += share * self._unet.partial_rows / len(batch)
        return out


@dataclass(frozen=True)
class DeepCache(PipelineMethod):
    """A solver whose U-Net reuses deep features between whole passes."""

    interval: int = INTERVAL
    branch: int = BRANCH
    nfe_varies: ClassVar[bool] = True
    fixed_layers: ClassVar[bool] = False
    plain_unet: ClassVar[bool] = False

    def content(self, pipeline: Pipeline, settings: SampleSettings) -> dict[str, object]:
        """All that shapes the method's images, for the cell's key."""
        cache = {"interval": self.interval, "branch": self.branch}
        return {**super().content(pipeline, settings), "deepcache": cache}

    def skip(self, pipeline: Pipeline, settings: SampleSettings) -> str | None:
        """Why it cannot run: a solver's reasons; no such skip connection, or other inputs."""
        return self.misfit_of(pipeline.unet) or super().skip(pipeline, settings)

    def misfit_of(self, unet: Any) -> str | None:
        """Why a U-Net cannot be cached so; None when it can."""
        config, connections = unet.config, len(up_layers(unet))
        if not 0 <= self.branch < connections or self.interval < 1:
            return (
                f"{self.name}: interval {self.interval}, branch {self.branch}, expected 1 or more"
                f" and 0 to {connections - 1}, as the U-Net has skip connections"
            )
        if unknown := [name for name in _UNKNOWN if config.get(name) is not None]:
            return f"{self.name}: the U-Net has a {unknown[0]}, expected text and time alone"
        return None

    def expected_nfe(self, pipeline: Pipeline, settings: SampleSettings) -> float:
        """Whole passes, and partial ones by their share."""
        return self.passes(pipeline, settings) * self.evaluations(settings) / settings.steps

    def passes(self, pipeline: Pipeline, settings: SampleSettings) -> float:
        """Passes of an image, a partial one as its share."""
        whole = -(-settings.steps // self.interval)
        side, tokens = pipeline.unet.config.sample_size, pipeline.tokenizer.model_max_length
        share = partial_share(pipeline.unet, self.branch, int(side), int(tokens))
        return whole + share * (settings.steps - whole)

    def prepare(self, pipeline: Pipeline, settings: SampleSettings) -> PipelineSampler:
        """Put the cache before the U-Net of a copy of the pipeline, which stays as it is."""
        if (reason := self.skip(pipeline, settings)) is not None:
            raise UserError(reason)
        unet = CachedUNet(pipeline.unet, self.interval, self.branch)
        return CacheSampler(with_network(pipeline, unet, self.solver), settings, unet)


@dataclass(frozen=True)
class CachedMethod(WrappedMethod):
    """DeepCache under any method whose pipeline calls a plain U-Net (``deepcache:NAME``)."""

    prefix: ClassVar[str] = "deepcache"
    faster: ClassVar[bool] = False  # passes that reuse features count as a share
    nfe_varies: ClassVar[bool] = True
    fixed_layers: ClassVar[bool] = False
    plain_unet: ClassVar[bool] = False

    def _cache(self) -> DeepCache:
        return DeepCache(self.name, self.inner.solver)

    def about(self) -> dict[str, object]:
        """Interval and branch."""
        return {"interval": INTERVAL, "branch": BRANCH}

    def unavailable(self, device: torch.device) -> str | None:
        """Nothing is needed."""
        return None

    def skip(self, pipeline: Pipeline, settings: SampleSettings) -> str | None:
        """As the method; something stands in its U-Net, or the U-Net has other inputs."""
        if not self.inner.plain_unet:
            return f"{self.name}: {self.inner.name} calls its U-Net in a way of its own"
        if isinstance(self.inner, WrappedMethod):
            return f"{self.name}: expected a method, compile and int8 go around it"
        reason = self.inner.skip(pipeline, settings)
        return reason or self._cache().misfit_of(pipeline.unet)

    def expected_nfe(self, pipeline: Pipeline, settings: SampleSettings) -> float:
        """The method's passes, all but every third by their share."""
        passes = self.inner.evaluations(settings) / settings.steps
        return self._cache().passes(pipeline, settings) * passes

    def prepare(self, pipeline: Pipeline, settings: SampleSettings) -> PipelineSampler:
        """The method's sampler with the cache before its U-Net."""
        if (reason := self.skip(pipeline, settings)) is not None:
            raise UserError(reason)
        plain_sampler = self.inner.prepare(pipeline, settings)
        own = copy.copy(plain_sampler.pipeline)
        unet = CachedUNet(own.unet, INTERVAL, BRANCH)
        own.unet = unet
        sampler = CacheSampler(own, plain_sampler.settings, unet)
        sampler.more = plain_sampler.more
        return sampler

    def release(self, pipeline: Pipeline) -> None:
        """As the method."""
        self.inner.release(pipeline)


def cached(inner: Method) -> CachedMethod:
    """DeepCache under a method."""
    return CachedMethod(wrappable(inner))


def deepcache() -> DeepCache:
    """DeepCache under DPM-Solver++(2M)."""
    return DeepCache("deepcache", dpm_solver_pp().solver)
