"""The attentions of a U-Net by diffusers' names, in the U-Net's order."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import Attention
from torch import nn


def attentions(unet: nn.Module) -> dict[str, Any]:
    """All of them."""
    return {name: m for name, m in unet.named_modules() if isinstance(m, Attention)}


def cross_attentions(unet: nn.Module) -> dict[str, Any]:
    """Those that read the text."""
    return {name: m for name, m in attentions(unet).items() if m.is_cross_attention}
