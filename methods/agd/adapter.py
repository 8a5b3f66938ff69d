"""AGD's adapters (Perez Jensen and Sadat 2025, arXiv 2503.07274): guidance in one pass.

Beside every cross-attention of the frozen U-Net, queries of the same input attend to a few tokens:
the guidance scale, the timestep, and the prompt's embeddings. What comes out is added; at first it
is zero. This is the paper's cross-attention form, one small width for all layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from safetensors.torch import save
from torch import Tensor, nn

from sunbench.errors import UserError
from sunbench.methods.common.attentions import cross_attentions
from sunbench.methods.common.guidance import StandInUNet
from sunbench.methods.common.lora import sharing_copy
from sunbench.store import write_atomic
from sunbench.store.files import make_folder
from sunbench.store.tensors import check_floating, load_weights, read_header, refuse_pickle

#: The sinusoids are made for timesteps; guidance scales are some hundred times smaller.
SCALE = 100.0


class AgdLayer(nn.Module):
    """Attention of one layer's input (B, tokens, channels) to the conditions; zero at first."""

    def __init__(self, channels: int, text: int, width: int) -> None:
        super().__init__()
        self.sines = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.scale = TimestepEmbedding(width, width)
        self.time = TimestepEmbedding(width, width)
        self.text = nn.Linear(text, width)
        self.norm = nn.LayerNorm(width)
        self.q = nn.Linear(channels, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, text: Tensor, timestep: Tensor, guidance: Tensor) -> Tensor:
        """What is added to the cross-attention's output, (B, tokens, channels)."""
        dtype = self.q.weight.dtype
        scale = self.scale(self.sines(guidance * SCALE).to(dtype))
        time = self.time(self.sines(timestep).to(dtype))
        tokens = torch.cat([scale[:, None], time[:, None], self.text(text.to(dtype))], 1)
        tokens = self.norm(tokens)
        attended = F.scaled_dot_product_attention(
            self.q(x.to(dtype))[:, None], self.k(tokens)[:, None], self.v(tokens)[:, None]
        )
        out: Tensor = self.out(attended[:, 0]).to(x.dtype)
        return out


class AgdAdapter(nn.Module):
    """A layer for every cross-attention of a U-Net."""

    def __init__(self, unet: Any, width: int, seed: int = 0) -> None:
        super().__init__()
        self.width = width
        attentions = cross_attentions(unet)
        self.names = list(attentions)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.ModuleList(
                AgdLayer(a.to_q.in_features, a.to_k.in_features, width) for a in attentions.values()
            )
        self.to(unet.device)


@dataclass
class Conditions:
    """What the layers of a pass are told beside their input: text, timestep and scale."""

    text: Tensor = field(default_factory=lambda: torch.zeros(0))
    timestep: Tensor = field(default_factory=lambda: torch.zeros(0))
    guidance: Tensor = field(default_factory=lambda: torch.zeros(0))


class AgdProcessor:
    """A cross-attention's processor with its adapter's layer beside it."""

    def __init__(self, inner: Any, layer: nn.Module, conditions: Conditions) -> None:
        self.inner, self.layer, self.conditions = inner, layer, conditions

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """(B, tokens, channels)."""
        c = self.conditions
        out: Tensor = self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        added: Tensor = self.layer(hidden_states, c.text, c.timestep, c.guidance)
        return out + added


class AgdUNet(StandInUNet):
    """A copy of a U-Net with an adapter in it; it shares all weights.

    guidance_scale: of every pass, unless the call gives one for each row.
    """

    def __init__(self, unet: Any, adapter: AgdAdapter, guidance_scale: float) -> None:
        super().__init__(sharing_copy(unet))
        self.adapter, self.guidance_scale = adapter, guidance_scale
        self.conditions = Conditions()
        beside = dict(zip(adapter.names, adapter.layers, strict=True))
        self.network.set_attn_processor(
            {
                name: AgdProcessor(inner, beside[layer], self.conditions)
                if (layer := name.removesuffix(".processor")) in beside
                else inner
                for name, inner in self.network.attn_processors.items()
            }
        )

    def forward(
        self,
        sample: Tensor,
        timestep: Any,
        encoder_hidden_states: Tensor,
        guidance: Tensor | None = None,
        **more: Any,
    ) -> tuple[Tensor]:
        """Predicted noise (B, C, h, w); guidance: scales (B,)."""
        rows, device = len(sample), sample.device
        c = self.conditions
        c.text = encoder_hidden_states
        c.timestep = torch.as_tensor(timestep, device=device).float().expand(rows)
        if guidance is None:
            guidance = torch.full((rows,), self.guidance_scale)
        c.guidance = guidance.to(device)
        more["return_dict"] = False
        out: tuple[Tensor] = self.network(sample, timestep, encoder_hidden_states, **more)
        return out


# ------------------------------------------------------------------------------ files


def write_agd(path: Path, adapter: AgdAdapter, about: Mapping[str, str], dtype: Any) -> None:
    """Write an adapter: tensors under the names of its cross-attentions."""
    tensors = {
        f"{name}.{key}": x.detach().to("cpu", dtype).contiguous()
        for name, layer in zip(adapter.names, adapter.layers, strict=True)
        for key, x in layer.state_dict().items()
    }
    make_folder(path.parent)
    write_atomic(path, save(tensors, {**about, "form": "agd", "width": str(adapter.width)}))


def empty_agd(path: Path, unet: Any) -> AgdAdapter:
    """The adapter of a file without its weights, on the meta device; reads names and shapes.

    Raises UserError in one line for another kind of file or another U-Net's adapter.
    """
    refuse_pickle(str(path))
    header = read_header(path)
    width = header.metadata.get("width", "")
    if header.metadata.get("form") != "agd" or not (width.isascii() and width.isdecimal()):
        raise UserError(f"{path}: holds no AGD adapter, expected one of `sunbench train agd`")
    with torch.device("meta"):
        adapter = AgdAdapter(_OnMeta(unet), int(width))
    wanted = {
        f"{name}.{key}": tuple(x.shape)
        for name, layer in zip(adapter.names, adapter.layers, strict=True)
        for key, x in layer.state_dict().items()
    }
    if dict(header) != wanted:
        odd = [k for k in wanted.keys() | header.keys() if wanted.get(k) != header.get(k)]
        raise UserError(
            f"{path}: adapter of another architecture, {len(odd)} of {len(wanted)} tensors differ,"
            f" such as {min(odd)}"
        )
    check_floating(path, header)
    return adapter


class _OnMeta:
    """A U-Net as the adapter's constructor sees it, apart from its device."""

    device = torch.device("meta")

    def __init__(self, unet: Any) -> None:
        self.named_modules = unet.named_modules


def load_agd(path: Path, unet: Any) -> AgdAdapter:
    """The adapter of a file, on the U-Net's device and in its dtype."""
    adapter, tensors = empty_agd(path, unet), load_weights(path)
    place = unet.device, unet.dtype
    for name, layer in zip(adapter.names, adapter.layers, strict=True):
        own = {k: tensors[f"{name}.{k}"].to(*place) for k in layer.state_dict()}
        layer.load_state_dict(own, assign=True)
    return adapter.eval().requires_grad_(False)
