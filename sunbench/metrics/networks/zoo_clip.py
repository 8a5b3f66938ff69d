"""The zoo's scorer: a small CLIP trained on the zoo's captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from sunbench.errors import UserError
from sunbench.metrics.networks.backbone import (
    frozen,
    full_precision,
    in_chunks,
    normalize,
    quiet_loading,
    weights_key,
)
from sunbench.metrics.networks.resize import clean_resize


def load_zoo_clip(name: str, device: str = "cpu") -> ZooClip:
    """The zoo's scorer, out of the package."""
    from sunbench.zoo import folder

    return ZooClip(folder("scorer"), device)


class ZooClip:
    """Pooled and projected features of both towers, and the image tower's layers."""

    name = "zoo-clip"

    def __init__(self, folder: Path, device: str = "cpu", batch: int = 256) -> None:
        if not (Path(folder) / "config.json").is_file():
            raise UserError(f"given {folder} as zoo scorer, expected a folder with a CLIP model")
        with quiet_loading():
            model: Any = CLIPModel.from_pretrained(folder, local_files_only=True)
        self.model: Any = frozen(model, device)
        self.tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        self.device, self.batch = device, batch
        self.size = int(model.config.vision_config.image_size)
        self.context = int(model.config.text_config.max_position_embeddings)
        self.dim = int(model.config.projection_dim)
        self.protocol = (
            "zoo CLIP, projected image embedding;"
            f" Pillow-bicubic resize to {self.size}x{self.size} unless that size, not rounded;"
            " (x / 255 - 0.5) / 0.5; float32"
        )
        self.key = weights_key(self.model, self.protocol)

    def _pixels(self, images: Tensor) -> Tensor:
        x = clean_resize(images.to(self.device), self.size, self.size)
        return normalize(x, (0.5,) * 3, (0.5,) * 3)

    def _embed(self, images: Tensor) -> Tensor:
        pooled = self.model.vision_model(pixel_values=self._pixels(images)).pooler_output
        result: Tensor = self.model.visual_projection(pooled)
        return result

    def embed(self, images: Tensor) -> Tensor:
        """uint8 NCHW -> float32 (N, dim)."""
        return in_chunks(self._embed, images, self.batch)

    def _embed_text(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=self.context,
            return_tensors="pt",
        ).to(self.device)
        pooled = self.model.text_model(tokens.input_ids, tokens.attention_mask).pooler_output
        result: Tensor = self.model.text_projection(pooled)
        return result

    def embed_text(self, texts: list[str]) -> Tensor:
        """Texts -> float32 (N, dim), not normalized; truncation keeps the end-of-text token."""
        starts = range(0, len(texts), self.batch)
        with full_precision():
            return torch.cat([self._embed_text(texts[i : i + self.batch]) for i in starts])

    def probabilities(self, features: Tensor) -> Tensor:
        """Zero-shot, of the zoo's things (their names in captions): (N, dim) -> (N, things)."""
        from sunbench.zoo.world.captions import things

        texts = self.embed_text([f"a {thing.name}" for thing in things()])
        x, y = (v / v.norm(dim=1, keepdim=True) for v in (features.to(texts), texts))
        scale = self.model.logit_scale.exp()
        return (scale * x @ y.T).softmax(1)

    def layers(self, images: Tensor) -> list[Tensor]:
        """uint8 NCHW -> each transformer block's patch tokens as maps (N, C, H, W)."""
        with full_precision():
            states = self.model.vision_model(
                pixel_values=self._pixels(images), output_hidden_states=True
            ).hidden_states[1:]
        return [_maps(state[:, 1:]) for state in states]


def _maps(tokens: Tensor) -> Tensor:
    """(N, side^2, C) -> (N, C, side, side)."""
    side = round(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))
