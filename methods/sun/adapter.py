"""The adapter as a module of its own, and how it is bound to a U-Net."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from sunbench.errors import UserError, unknown
from sunbench.methods.common.attentions import attentions, cross_attentions
from sunbench.methods.sun.attention import KEYWORD, NORMS, SunLayer, SunProcessor

#: Processors that compute plain attention, beside which SUN can stand.
PLAIN = ("AttnProcessor", "AttnProcessor2_0", "SlicedAttnProcessor", "XFormersAttnProcessor")
INITS = ("copy", "random")
Shapes = dict[str, tuple[int, int]]


def shapes_of(unet: nn.Module) -> Shapes:
    """(channels, text width) of each cross-attention; UserError where there is none."""
    dims = {n: (a.inner_kv_dim, a.cross_attention_dim) for n, a in cross_attentions(unet).items()}
    if not dims:
        raise UserError("given a U-Net without cross-attention, which SUN needs")
    return dims


def check_plain_attention(unet: Any) -> None:
    """Raise where something else than plain attention reads the text, such as an IP-Adapter."""
    for attn in cross_attentions(unet).values():
        kind = type(attn.processor).__name__
        if kind not in PLAIN:
            raise UserError(
                f"given a U-Net with {kind}, expected plain attention: SUN cannot be combined with"
                " IP-Adapter, PAG or other attention processors; unload them first"
            )
        if attn.added_kv_proj_dim is not None or attn.group_norm is not None:
            raise UserError("given a U-Net with added-KV attention, expected Stable Diffusion's")


class SunAdapter(nn.Module):
    """All SUN layers, as submodules by the names of the attentions they stand beside.

    shapes: (channels, text width) by attention name. add_pos: False is the paper's form, True the
    released one with a second positive branch. Weights are on the meta device until loaded.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, int]], *, add_pos: bool = False, norm: str = "sample"
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise unknown("norm", norm, NORMS)
        self.names, self.add_pos, self.norm = tuple(shapes), add_pos, norm
        for name, (channels, width) in shapes.items():
            _place(self, name, SunLayer(channels, width, add_pos))

    @classmethod
    def for_unet(
        cls,
        unet: nn.Module,
        *,
        add_pos: bool = False,
        norm: str = "sample",
        init: str = "copy",
        alpha0: float | None = None,
        seed: int = 0,
    ) -> SunAdapter:
        """A fresh adapter in float32, on the U-Net's device.

        init: "copy" starts from the base's K and V, "random" from a uniform draw. alpha0: None is 1
        with add_pos (attention-space guidance from the first step) and 0 without (the base itself:
        with 1 the text would be erased).
        """
        if init not in INITS:
            raise unknown("init", init, INITS)
        adapter = cls(shapes_of(unet), add_pos=add_pos, norm=norm)
        alpha = float(add_pos) if alpha0 is None else alpha0
        adapter.load_state_dict(_initial(adapter, unet, init, alpha, seed), assign=True)
        return adapter

    @property
    def form(self) -> str:
        """ "paper" or "add_pos"."""
        return "add_pos" if self.add_pos else "paper"

    @property
    def parameter_count(self) -> int:
        """Exact number of parameters."""
        return sum(p.numel() for p in self.parameters())

    def bind(self, unet: Any) -> Binding:
        """Stand beside the U-Net's cross-attentions, once however often it is asked for.

        From then on ``unet(x, t, positive, cross_attention_kwargs={"negative_hidden_states":
        negative})`` is SUN, and a call without negative states is the base, bit-exact: student and
        teacher are one network. The states travel as arguments, never as hidden state, so that
        gradient checkpointing computes again what was computed.
        """
        current = bound(unet)
        if current is not None and current.adapter is not self:
            raise UserError("given a U-Net that has a SUN adapter, expected one without; unload it")
        binding = current or Binding(self, unet)
        binding.users += 1
        return binding

    def forward(
        self, unet: Any, sample: Tensor, timestep: Any, positive: Tensor, negative: Tensor
    ) -> Tensor:
        """The bound U-Net's prediction; a forward, so that wrappers of modules can be used."""
        out: Tensor = unet(
            sample,
            timestep,
            encoder_hidden_states=positive,
            cross_attention_kwargs={KEYWORD: negative},
            return_dict=False,
        )[0]
        return out


class Binding:
    """A U-Net's SUN processors and how to take them out again."""

    def __init__(self, adapter: SunAdapter, unet: Any) -> None:
        self.adapter, self.users = adapter, 0
        check_plain_attention(unet)
        if shapes_of(unet) != {n: _shape(adapter, n) for n in adapter.names}:
            raise UserError("given an adapter that was made for another U-Net")
        self._attentions = cross_attentions(unet)
        self._bases = {name: attn.processor for name, attn in self._attentions.items()}
        for name, attn in self._attentions.items():
            layer = cast(SunLayer, adapter.get_submodule(name))
            attn.set_processor(SunProcessor(layer, adapter.norm, attn.processor, self))
        others = [a for name, a in attentions(unet).items() if name not in self._attentions]
        self._hooks = [a.register_forward_pre_hook(_drop, with_kwargs=True) for a in others]

    def check(self, unet: Any) -> None:
        """Raise unless every cross-attention of the U-Net still has its SUN layer."""
        for attn in cross_attentions(unet).values():
            if getattr(attn.processor, "binding", None) is not self:
                raise UserError(
                    f"given a cross-attention with {type(attn.processor).__name__}, expected SUN's:"
                    " load an IP-Adapter, slicing or another U-Net only after unload_sun"
                )

    def release(self) -> None:
        """Undo one ``bind``; the last one puts the base's own processors back."""
        self.users -= 1
        if self.users > 0:
            return
        for name, attn in self._attentions.items():
            if getattr(attn.processor, "binding", None) is self:
                attn.set_processor(self._bases[name])
        for hook in self._hooks:
            hook.remove()


def bound(unet: nn.Module) -> Binding | None:
    """The binding of a U-Net, None where it has no SUN adapter."""
    for attn in cross_attentions(unet).values():
        if isinstance(attn.processor, SunProcessor):
            binding: Binding = attn.processor.binding
            return binding
    return None


def _drop(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Self-attention is handed the same keywords; diffusers would warn at each call."""
    return args, {k: v for k, v in kwargs.items() if k != KEYWORD}


def _place(root: nn.Module, name: str, layer: nn.Module) -> None:
    *parents, last = name.split(".")
    for part in parents:
        if part not in dict(root.named_children()):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, layer)


def _shape(adapter: SunAdapter, name: str) -> tuple[int, int]:
    layer: Any = adapter.get_submodule(name)
    return layer.channels, layer.width


def _initial(
    adapter: SunAdapter, unet: nn.Module, init: str, alpha: float, seed: int
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, empty in adapter.state_dict().items():
        name, _, leaf = key.partition(".to_")
        base = _base_weight(unet.get_submodule(f"{name}.to_{leaf[0]}"))
        if leaf.endswith("alpha"):
            value = torch.full(empty.shape, alpha)
        elif leaf.endswith("beta"):
            value = torch.zeros(empty.shape)
        elif init == "copy":
            value = base.detach().clone()
        else:
            bound_ = empty.shape[1] ** -0.5
            value = torch.empty(empty.shape).uniform_(-bound_, bound_, generator=generator)
        tensors[key] = value.to(base.device, torch.float32)
    return tensors


def _base_weight(linear: Any) -> Tensor:
    weight: Tensor = getattr(linear, "base_layer", linear).weight  # under a LoRA, the base's own
    return weight
