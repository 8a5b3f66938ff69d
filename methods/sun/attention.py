"""SUN's cross-attention: Eq. 4 to 7 of arXiv 2312.08887, and the released code's second branch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sunbench.errors import UserError

#: The axes of (batch, tokens, channels) over which Attention Normalization measures a tensor.
#: "sample" keeps images apart; "batch" is the authors' code, in which an image depends on the
#: rest of its batch; "token" is Eq. 7 read literally. At batch 1 the first two are the same.
#: "none" is the ablation without it (section 4.3): alpha Z + beta, nothing measured.
NORMS: dict[str, tuple[int, ...]] = {
    "sample": (1, 2),
    "batch": (0, 1, 2),
    "token": (2,),
    "none": (),
}

#: The keyword under which the negative states travel through a U-Net's cross_attention_kwargs.
KEYWORD = "negative_hidden_states"

KeyValue = tuple[Tensor, Tensor]


def norm_ratio(zp: Tensor, z: Tensor, norm: str) -> Tensor:
    """|Zp| / |Z| in float32, with size 1 along the measured axes; 0 for a Z of nothing but zeros.

    Under the norm "none" it is 1 everywhere. In float16 the parts of Z / |Z| would be near the
    smallest normal number.
    """
    axes = NORMS[norm]
    if not axes:
        return z.new_ones((1, 1, 1), dtype=torch.float32)
    sizes = [
        torch.linalg.vector_norm(x, dim=axes, keepdim=True, dtype=torch.float32) for x in (zp, z)
    ]
    return torch.where(sizes[1] > 0, sizes[0] / sizes[1].clamp_min(1e-30), 0.0)


def normalized(zp: Tensor, z: Tensor, alpha: Tensor, beta: Tensor, norm: str) -> Tensor:
    """Attention Normalization g(Z) = alpha Z |Zp| / |Z| + beta (Eq. 7), in float32.

    zp, z: (batch, tokens, channels); alpha, beta: (channels,).
    """
    factor = norm_ratio(zp, z, norm) * alpha.float()
    return torch.addcmul(beta.float(), z.float(), factor)


def _linear(width: int, channels: int) -> nn.Linear:
    return nn.Linear(width, channels, bias=False, device="meta")


def _vector(channels: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(channels, device="meta"))


class SunLayer(nn.Module):
    """What stands beside one cross-attention; the names are those of the released weights.

    Made on the meta device: weights arrive by ``load_state_dict(..., assign=True)``.
    """

    def __init__(self, channels: int, width: int, add_pos: bool) -> None:
        super().__init__()
        self.channels, self.width, self.add_pos = channels, width, add_pos
        self.to_k_neg = _linear(width, channels)
        self.to_v_neg = _linear(width, channels)
        self.to_k_neg_alpha = _vector(channels)
        self.to_k_neg_beta = _vector(channels)
        if add_pos:
            self.to_k_extra_pos = _linear(width, channels)
            self.to_v_extra_pos = _linear(width, channels)
            self.to_k_extra_pos_alpha = _vector(channels)
            self.to_k_extra_pos_beta = _vector(channels)

    def project(self, positive: Tensor, negative: Tensor) -> list[KeyValue]:
        """K', V' of the negative text, then with ``add_pos`` K'', V'' of the positive one."""
        dtype = self.to_k_neg.weight.dtype
        negative, positive = negative.to(dtype), positive.to(dtype)
        pairs = [(self.to_k_neg(negative), self.to_v_neg(negative))]
        if self.add_pos:
            pairs.append((self.to_k_extra_pos(positive), self.to_v_extra_pos(positive)))
        return pairs

    def combine(self, zp: Tensor, extra: list[Tensor], norm: str) -> Tensor:
        """Z = Zp - g(Zn) (Eq. 6), with ``add_pos`` + h(Zq); before the output projection."""
        alpha, beta = self.to_k_neg_alpha, self.to_k_neg_beta
        out = zp - normalized(zp, extra[0], alpha, beta, norm).to(zp.dtype)
        if self.add_pos:
            alpha, beta = self.to_k_extra_pos_alpha, self.to_k_extra_pos_beta
            out = out + normalized(zp, extra[1], alpha, beta, norm).to(zp.dtype)
        return out


class NegativeText:
    """Negative states (batch, tokens, width) of one pipeline call, with every layer's K and V.

    Remembers only while no gradients are asked for, and only for one positive text at a time.
    """

    def __init__(self, states: Tensor) -> None:
        self.states = states
        self._positive: Tensor | None = None
        self._held: dict[object, list[KeyValue]] = {}

    def remembered(
        self, layer: object, positive: Tensor, make: Callable[[], list[KeyValue]]
    ) -> list[KeyValue]:
        """What ``make`` gives, made once for each layer and positive text."""
        if torch.is_grad_enabled():
            return make()
        if positive is not self._positive:
            self._held.clear()
            self._positive = positive
        if layer not in self._held:
            self._held[layer] = make()
        return self._held[layer]


def _check(attn: Any, positive: Tensor, negative: Tensor) -> None:
    width = attn.cross_attention_dim
    if negative.ndim != 3 or negative.shape[-1] != width or len(negative) != len(positive):
        raise UserError(
            f"given negative states of shape {tuple(negative.shape)}, expected"
            f" ({len(positive)}, tokens, {width}) beside positive {tuple(positive.shape)}"
        )


class SunProcessor:
    """Attention processor of diffusers: the base's attention and its SUN layer.

    Without negative states it is the base, bit-exact. It is no module of the U-Net on purpose: the
    U-Net's weights, their dtype and what is trained of them stay what they were.
    """

    def __init__(self, layer: SunLayer, norm: str, base: Any, binding: Any) -> None:
        self.layer, self.norm, self.base, self.binding = layer, norm, base, binding

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        negative_hidden_states: Tensor | NegativeText | None = None,
    ) -> Tensor:
        """(batch, queries, channels) -> the same; the mask is the positive text's."""
        if negative_hidden_states is None or encoder_hidden_states is None:
            out: Tensor = self.base(
                attn,
                hidden_states,
                encoder_hidden_states=encoder_hidden_states,
                attention_mask=attention_mask,
            )
            return out
        query = attn.to_q(hidden_states)
        texts = self._texts(attn, encoder_hidden_states, negative_hidden_states, query.dtype)
        z = self._attend(attn, query, texts, attention_mask)
        z = attn.to_out[1](attn.to_out[0](z))
        if attn.residual_connection:
            z = z + hidden_states
        return z / attn.rescale_output_factor

    def _texts(
        self, attn: Any, positive: Tensor, negative: Tensor | NegativeText, dtype: torch.dtype
    ) -> list[KeyValue]:
        """Keys and values of the base, of the negative text, and with add_pos of the positive."""
        text = negative if isinstance(negative, NegativeText) else NegativeText(negative)

        def make() -> list[KeyValue]:
            states = text.states.to(positive.device)
            _check(attn, positive, states)
            return self._project(attn, positive, states, dtype)

        return text.remembered(self, positive, make)

    def _project(
        self, attn: Any, positive: Tensor, negative: Tensor, dtype: torch.dtype
    ) -> list[KeyValue]:
        if attn.norm_cross:
            positive = attn.norm_encoder_hidden_states(positive)
            negative = attn.norm_encoder_hidden_states(negative)
        base = (attn.to_k(positive), attn.to_v(positive))
        return [
            (_keys(attn, key).to(dtype), _heads(attn, value).to(dtype))
            for key, value in (base, *self.layer.project(positive, negative))
        ]

    def _attend(
        self, attn: Any, query: Tensor, texts: list[KeyValue], mask: Tensor | None
    ) -> Tensor:
        q = _heads(attn, query)
        if attn.norm_q is not None:
            q = attn.norm_q(q)
        first, *others = texts
        zp = _attention(attn, q, first, _mask(attn, mask, first[0].shape[2], len(q)))
        masks = [None, mask]  # the negative text has none; the second branch reads the positive
        extra = [
            _attention(attn, q, kv, _mask(attn, m, kv[0].shape[2], len(q)))
            for kv, m in zip(others, masks, strict=False)
        ]
        return self.layer.combine(zp, extra, self.norm)


def _heads(attn: Any, x: Tensor) -> Tensor:
    return x.view(len(x), -1, attn.heads, x.shape[-1] // attn.heads).transpose(1, 2)


def _keys(attn: Any, x: Tensor) -> Tensor:
    keys = _heads(attn, x)
    return keys if attn.norm_k is None else attn.norm_k(keys)


def _mask(attn: Any, mask: Tensor | None, tokens: int, batch: int) -> Tensor | None:
    if mask is None:
        return None
    prepared: Tensor = attn.prepare_attention_mask(mask, tokens, batch)
    return prepared.view(batch, attn.heads, -1, prepared.shape[-1])


def _attention(attn: Any, q: Tensor, kv: KeyValue, mask: Tensor | None) -> Tensor:
    scale = None if attn.scale_qk else attn.scale
    z = F.scaled_dot_product_attention(q, *kv, attn_mask=mask, scale=scale)
    return z.transpose(1, 2).reshape(len(z), -1, z.shape[1] * z.shape[3]).to(q.dtype)
