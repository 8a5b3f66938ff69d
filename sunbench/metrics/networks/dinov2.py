"""DINOv2's class token, by "dinov2/<size>"."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import AutoModel

from sunbench.errors import unknown
from sunbench.metrics.networks.availability import fetching
from sunbench.metrics.networks.backbone import frozen, in_chunks, normalize, weights_key
from sunbench.metrics.networks.resize import clean_resize

HUB_IDS = {
    "dinov2/vits14": "facebook/dinov2-small",
    "dinov2/vitb14": "facebook/dinov2-base",
    "dinov2/vitl14": "facebook/dinov2-large",
    "dinov2/vitg14": "facebook/dinov2-giant",
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_dinov2(name: str, device: str = "cpu") -> DinoV2:
    """The model of "dinov2/vitl14", fetched from the hub on first use."""
    if name not in HUB_IDS:
        raise unknown("DINOv2 model", name, HUB_IDS)
    with fetching(f"{name} ({HUB_IDS[name]})"):
        model = AutoModel.from_pretrained(HUB_IDS[name], use_safetensors=True)
    return DinoV2(model, name, device)


class DinoV2:
    """Normalized class token. Source of the protocol: Stein et al. 2023 (arXiv 2306.04675)."""

    def __init__(self, model: Any, name: str, device: str = "cpu", batch: int = 64) -> None:
        self.model: Any = frozen(model, device)
        self.name = name
        self.device, self.batch, self.size = device, batch, 224
        self.dim = int(self.model.config.hidden_size)
        self.protocol = (
            f"{name}, class token; Pillow-bicubic resize to 224x224, not rounded;"
            " ImageNet mean and deviation; float32"
        )
        self.key = weights_key(self.model, self.protocol)

    def _embed(self, images: Tensor) -> Tensor:
        x = clean_resize(images.to(self.device), self.size, self.size)
        pixels = normalize(x, IMAGENET_MEAN, IMAGENET_STD)
        result: Tensor = self.model(pixel_values=pixels).last_hidden_state[:, 0]
        return result

    def embed(self, images: Tensor) -> Tensor:
        """uint8 NCHW -> float32 (N, dim)."""
        return in_chunks(self._embed, images, self.batch)
