"""Tiny pipelines of every task."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import diffusers
import pytest
import torch


def control_net(unet: Any, seed: int = 7) -> Any:
    """A ControlNet whose last layers are not zero, so that what it reads shows."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16))
        last = net.controlnet_cond_embedding.conv_out
        for block in [*net.controlnet_down_blocks, net.controlnet_mid_block, last]:
            torch.nn.init.normal_(block.weight, std=0.1)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def pipe_for(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """kind -> pipeline: a task, or inpaint9 for a U-Net of nine channels."""
    held: dict[str, Any] = {}

    def get(kind: str) -> Any:
        if kind not in held:
            channels = {"in_channels": 9} if kind == "inpaint9" else {}
            base = tiny.pipeline(tmp_path_factory.mktemp(kind), **channels)
            parts = dict(base.components)
            if kind == "controlnet":
                parts["controlnet"] = control_net(base.unet)
            names = {
                "text2image": "StableDiffusionPipeline",
                "image2image": "StableDiffusionImg2ImgPipeline",
                "controlnet": "StableDiffusionControlNetPipeline",
            }
            cls = getattr(diffusers, names.get(kind, "StableDiffusionInpaintPipeline"))
            held[kind] = cls(**parts, requires_safety_checker=False)
            held[kind].set_progress_bar_config(disable=True)
        return held[kind]

    return get
