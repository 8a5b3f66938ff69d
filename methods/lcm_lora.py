"""LCM-LoRA (Luo et al. 2023, arXiv 2311.05556): an LCM as a LoRA, for any fine-tune.

The LoRA holds the guidance that it was distilled at, so a step is one conditional pass
(``lcm-lora``). Classifier-free guidance on top of it, weakly, lets a negative prompt in and doubles
the cost (``lcm-lora-cfg``); its scale is no guidance_scale in the user's sense and stays fixed.
The LoRA is merged for sampling, so what is timed is a plain U-Net.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sunbench.errors import UserError
from sunbench.methods.distilled import DistilledMethod, Weights, trained_guidance
from sunbench.methods.lcm import GRID, SOLVER
from sunbench.methods.lora import lora_layers, with_lora
from sunbench.models.hashes import file_hash
from sunbench.sampling import SampleSettings

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


@dataclass(frozen=True)
class MergedMethod(DistilledMethod):
    """A change merged into the pipeline's own U-Net; it holds the guidance it was trained with.

    extra: the guidance_scale on top of that; 1 is one conditional pass.
    """

    extra: float = 1.0

    def check(self, pipeline: Any, settings: SampleSettings) -> None:
        """A plain U-Net, weights that fit it, and the guidance that they imitate."""
        if pipeline.unet.config.time_cond_proj_dim is not None:
            raise UserError("the U-Net takes guidance as an input, expected a plain one")
        if self.extra > 1 >= settings.guidance_scale:
            raise UserError(
                f"guidance_scale {settings.guidance_scale:g} asks for one pass without a negative"
                f" prompt, {self.name} always takes two"
            )
        path = self.weights.find(pipeline.unet)
        self.fit(path, pipeline.unet)
        trained = trained_guidance(path)
        if trained is not None and abs(trained - settings.guidance_scale) > 1e-6:
            raise UserError(
                f"guidance_scale {settings.guidance_scale:g} asked, the {self.weights.method}"
                f" weights hold {trained:g}"
            )

    def fit(self, path: Path, unet: Any) -> None:
        """Raise UserError unless the file fits the U-Net; reads names and shapes only."""
        lora_layers(path, unet)

    def network(self, pipeline: Any, settings: SampleSettings) -> Any:
        """The U-Net with the change merged in."""
        return with_lora(pipeline.unet, self.weights.find(pipeline.unet))

    def scale(self, settings: SampleSettings) -> float:
        """What stands on top of the trained guidance, whatever the settings ask."""
        return self.extra

    def evaluations(self, settings: SampleSettings) -> int:
        """Two a step with guidance on top, one without."""
        return settings.steps * (2 if self.extra > 1 else 1)

    def describe(self, path: Path) -> dict[str, Any]:
        """By hash and trained guidance."""
        return {"sha256": file_hash(path), "guidance_scale": trained_guidance(path)}

    @property
    def negative_prompts(self) -> bool:
        """Under guidance on top alone."""
        return self.extra > 1

    def content(self, pipeline: Any, settings: SampleSettings) -> dict[str, Any]:
        """For the cell's key; a negative prompt acts only under guidance on top."""
        own, negative = super().content(pipeline, settings), "cfg" if self.extra > 1 else "none"
        return {**own, "extra_guidance": self.extra, "negative": negative}


def lcm_lora() -> MergedMethod:
    """LCM-LoRA at guidance 1: one pass a step, no negative prompt."""
    return MergedMethod("lcm-lora", SOLVER, WEIGHTS, GRID)


def lcm_lora_cfg() -> MergedMethod:
    """LCM-LoRA with guidance on top: negative prompts at double cost."""
    return MergedMethod("lcm-lora-cfg", SOLVER, WEIGHTS, GRID, EXTRA_GUIDANCE)
