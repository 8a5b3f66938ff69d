"""CLIP models of open_clip, by "open-clip/<architecture>/<weights>"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.functional import center_crop

from sunbench.errors import UserError, unknown
from sunbench.metrics.networks.availability import NotAvailable, fetching
from sunbench.metrics.networks.backbone import (
    frozen,
    full_precision,
    in_chunks,
    normalize,
    weights_key,
)
from sunbench.metrics.networks.resize import pillow_resize


def _package() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise NotAvailable("open_clip is not installed: pip install 'sunbench[clip]'") from error
    return open_clip


def load_open_clip(name: str, device: str = "cpu") -> OpenClip:
    """The model of "open-clip/ViT-g-14/laion2b_s34b_b88k", fetched on first use."""
    open_clip = _package()
    known = ["open-clip/" + "/".join(pair) for pair in open_clip.list_pretrained()]
    if name not in known:
        raise unknown("open_clip model", name, known)
    _, architecture, weights = name.split("/")
    with fetching(name):
        model = open_clip.create_model(architecture, pretrained=weights, precision="fp32")
        tokenizer = open_clip.get_tokenizer(architecture)
    return OpenClip(model, tokenizer, name, device)


class OpenClip:
    """Both towers of an open_clip model with the model's own preprocessing, on the device.

    The resize rounds as Pillow does on 8-bit images, so embeddings are those of open_clip's own
    transform; open_clip's tokenizer keeps the end-of-text token when it truncates.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Callable[[list[str]], Tensor],
        name: str,
        device: str = "cpu",
        batch: int = 64,
    ) -> None:
        config = _package().get_model_preprocess_cfg(model)
        self.model: Any = frozen(model, device)
        self.tokenizer = tokenizer
        self.name, self.device, self.batch = name, device, batch
        size = config["size"]
        self.size = int(size if isinstance(size, int) else size[0])
        self.mean, self.std = tuple(config["mean"]), tuple(config["std"])
        self.mode = str(config.get("resize_mode") or "shortest")
        rule = str(config.get("interpolation") or "bicubic")
        if rule != "bicubic" or self.mode not in ("shortest", "squash"):
            raise UserError(
                f"given {name} with {rule} {self.mode} resize, expected bicubic shortest or squash"
            )
        self.protocol = (
            f"{name}; Pillow-bicubic 8-bit resize ({self.mode}) to {self.size}x{self.size};"
            f" mean {self.mean} std {self.std}; float32; no prompt prefix"
        )
        self.key = weights_key(self.model, self.protocol)
        self.dim = int(self.embed_text([""]).shape[1])

    def _resized(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if self.mode == "squash":
            return pillow_resize(images, self.size, self.size)
        long = int(self.size * max(height, width) / min(height, width))
        new = (self.size, long) if height <= width else (long, self.size)
        return center_crop(pillow_resize(images, *new), [self.size, self.size])

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 NCHW -> the network's input, float32 (N, 3, size, size)."""
        return normalize(self._resized(images.to(self.device)), self.mean, self.std)

    def embed(self, images: Tensor) -> Tensor:
        """uint8 NCHW -> float32 (N, dim)."""
        return in_chunks(
            lambda part: self.model.encode_image(self.pixels(part)), images, self.batch
        )

    def embed_text(self, texts: list[str]) -> Tensor:
        """Texts -> float32 (N, dim), not normalized."""
        parts = [texts[i : i + self.batch] for i in range(0, len(texts), self.batch)]
        with full_precision():
            tokens = (self.tokenizer(part).to(self.device) for part in parts)
            return torch.cat([self.model.encode_text(part) for part in tokens])
