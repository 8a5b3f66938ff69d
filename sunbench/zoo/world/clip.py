"""Training of small CLIPs on all styles: one that conditions the U-Nets, one that judges."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from sunbench.training import LoopSettings, fit
from sunbench.training.prefetch import Prefetcher
from sunbench.zoo.world.autoencoder import every_style, held_out_batch
from sunbench.zoo.world.captions import Scene, recipe, sample_captions
from sunbench.zoo.world.images import Sprites, batch_maker
from sunbench.zoo.world.text import build_tokenizer

log = logging.getLogger(__name__)

#: Share of the contrastive batches whose captions name everything but the style.
FULL_CAPTIONS = 0.5


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids, padded and truncated to the window: (N, 24)."""
    n = tokenizer.model_max_length
    ids = tokenizer(texts, padding="max_length", max_length=n, truncation=True, return_tensors="pt")
    return ids.input_ids


def new_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained CLIP of the recipe's size."""
    table = recipe()["clip"]
    text = CLIPTextConfig(
        **table["text"],
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPModel(
        CLIPConfig(
            text_config=text.to_dict(),
            vision_config=CLIPVisionConfig(**table["vision"]).to_dict(),
            projection_dim=table["text"]["projection_dim"],
        )
    )


def contrastive_captions(scene_rows: Tensor, style: Tensor, g: torch.Generator) -> list[str]:
    """Half of the captions full, half with choices left open."""
    open_ones = sample_captions(scene_rows, style, g)
    full = (torch.rand(len(style), generator=g) < FULL_CAPTIONS).tolist()
    return [
        Scene(*row).caption() if whole else text
        for row, whole, text in zip(scene_rows.tolist(), full, open_ones, strict=True)
    ]


def contrastive_loss(logits: Tensor, texts: list[str]) -> Tensor:
    """Symmetric cross-entropy (Radford et al. 2021, Fig. 3); equal captions share the target."""
    same = torch.tensor([[a == b for b in texts] for a in texts], device=logits.device)
    target = same.float() / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def train_clip(sprites: Sprites, folder: Path, role: str, device: str = "cpu") -> CLIPModel:
    """role: ``encoder`` or ``scorer``, whose settings differ in the recipe."""
    settings = LoopSettings.from_table(recipe()["clip"]["loop"] | recipe()["clip"][role])
    seed, tokenizer = settings.seed, build_tokenizer()
    torch.manual_seed(seed)
    clip: Any = new_clip(tokenizer).to(device)
    styles = every_style()
    batches = Prefetcher(batch_maker(sprites, styles, settings.batch, seed), device)

    def loss(k: int) -> dict[str, Tensor]:
        batch = batches(k)
        g = torch.Generator().manual_seed(seed * 7919 + k)
        texts = contrastive_captions(batch.scenes, batch.styles, g)
        out = clip(
            input_ids=tokenize(tokenizer, texts).to(device), pixel_values=batch.images.to(device)
        )
        logits = out.logits_per_text.float().clamp(-100, 100)
        top = (logits.argmax(1) == torch.arange(len(texts), device=device)).float().mean()
        return {"loss": contrastive_loss(logits, texts), "top1": top}

    held_out = held_out_batch(sprites, styles, 512)
    ids = tokenize(tokenizer, [Scene(*row).caption() for row in held_out.scenes.tolist()])

    @torch.no_grad()
    def probe(step: int, ema: dict[str, Tensor]) -> None:
        net = new_clip(tokenizer).eval()
        net.load_state_dict(ema)
        log.info("%s step %d: held-out top-1 of 256 %.3f", role, step, top_one(net, ids, held_out))

    clip.load_state_dict(fit(clip, loss, settings, folder, on_checkpoint=probe))
    return clip


def top_one(net: Any, ids: Tensor, held_out: Any) -> float:
    """Share of captions whose own image scores highest among 256."""
    hits = []
    for i in range(0, len(ids), 256):
        images = held_out.images[i : i + 256]
        logits = net(input_ids=ids[i : i + 256], pixel_values=images).logits_per_text
        hits.append((logits.argmax(1) == torch.arange(len(images))).float().mean())
    return float(sum(hits) / len(hits))
