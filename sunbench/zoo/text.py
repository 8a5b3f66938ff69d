"""The zoo's tokenizer: byte-pair merges learned on its own captions, in CLIP's format."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from sunbench.zoo.data import GROUNDS, PLACE_WORDS, PLACES, SIZES, Scene, colours, recipe, things
from sunbench.zoo.world.text import tokenizer_of

#: Words beyond the captions' own that negative prompts use.
EXTRA = "blurry noisy ugly broken empty dark bright flat line 3d style picture icon of the no two"


def style_words() -> list[str]:
    """The style word of each style; empty where a caption never names it."""
    return [s.get("words", "") for s in recipe()["styles"]]


def with_style(caption: str, word: str) -> str:
    """The caption in a named style; the style stands first.

    CLIP reads left to right: only so does the token of the thing know how it is drawn.
    """
    return f"{word} style, {caption}" if word else caption


def captions_of(
    index: Tensor, style: Tensor, generator: torch.Generator, named: float
) -> list[str]:
    """Captions of scenes (N, 5); with probability ``named`` one names its style, if it can."""
    words, chosen = style_words(), torch.rand(len(index), generator=generator) < named
    out = []
    for row, s, name_it in zip(index.tolist(), style.tolist(), chosen.tolist(), strict=True):
        caption = Scene(*row).caption
        out.append(with_style(caption, words[s] if name_it else ""))
    return out


def vocabulary() -> list[str]:
    """Every word that the zoo's captions use, in a fixed order."""
    words = {w for name, _, _ in things() for w in name.split()}
    words |= {c for c, _ in colours()} | set(GROUNDS) | set(SIZES) | set(style_words()) - {""}
    words |= {w for words_ in PLACE_WORDS for w in words_.split()} | set(PLACES)
    words |= {"a", "an", "background", "large", *EXTRA.split()}
    return sorted(words)


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer that knows every word of the captions as one token; 24 tokens long."""
    return tokenizer_of(vocabulary(), recipe()["clip"]["text"]["max_position_embeddings"])
