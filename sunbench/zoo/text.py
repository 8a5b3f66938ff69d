"""The zoo's tokenizer: byte-pair merges learned on its own captions, in CLIP's format."""

from __future__ import annotations

from transformers import CLIPTokenizer

from sunbench.zoo.data import GROUNDS, PLACE_WORDS, PLACES, SIZES, colours, recipe, things
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
