"""LCM-LoRA (Luo et al. 2023, arXiv 2311.05556): an LCM as a LoRA, for any fine-tune.

The LoRA holds the guidance that it was distilled at, so a step is one conditional pass
(``lcm-lora``). Classifier-free guidance on top of it, weakly, lets a negative prompt in and doubles
the cost (``lcm-lora-cfg``); its scale is no guidance_scale in the user's sense and stays fixed.
The LoRA is merged for sampling, so what is timed is a plain U-Net.
"""

from __future__ import annotations

from sunbench.methods.common.method import MergedMethod
from sunbench.methods.common.weights import Weights
from sunbench.methods.lcm.method import GRID, SOLVER

#: Layers of the published LoRA, rank 64: 67,252,224 parameters on Stable Diffusion 1.5.
TARGETS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
    "conv1",
    "conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
    "time_emb_proj",
)
RANK = 64
#: Guidance on top of the LoRA; its authors allow 1 to 2.
EXTRA_GUIDANCE = 1.5
WEIGHTS = Weights(
    "lcm-lora",
    published="latent-consistency/lcm-lora-sdv1-5",
    file="pytorch_lora_weights.safetensors",
)


def lcm_lora() -> MergedMethod:
    """LCM-LoRA at guidance 1: one pass per step, no negative prompt."""
    return MergedMethod("lcm-lora", SOLVER, WEIGHTS, GRID)


def lcm_lora_cfg() -> MergedMethod:
    """LCM-LoRA with guidance on top: negative prompts at double cost."""
    return MergedMethod("lcm-lora-cfg", SOLVER, WEIGHTS, GRID, EXTRA_GUIDANCE)
