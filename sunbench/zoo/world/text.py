"""The zoo's tokenizer: byte-pair merges learned on its own captions, in CLIP's format."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import CLIPTokenizer

from sunbench.zoo.world.captions import (
    CLASS_WORDS,
    PATTERNS,
    PLACE_PHRASES,
    SIZES,
    colors,
    recipe,
    style_words,
    things,
)

END = "</w>"
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
LETTERS = [chr(c) for c in range(33, 127) if not chr(c).isupper()]

#: Words beyond the captions' own that negative prompts use.
EXTRA = "blurry noisy ugly broken empty dark bright flat line 3d picture image icon of the no two"


def caption_words() -> list[str]:
    """Every word that the zoo's captions use, in a fixed order."""
    words = {w for thing in things() for w in thing.name.split()}
    words |= {c for c, _ in colors()} | {*PATTERNS, *SIZES, *CLASS_WORDS, *style_words()} - {""}
    words |= {w for phrase in PLACE_PHRASES for w in phrase.split()}
    words |= {"a", "an", "background", "style", *EXTRA.split()}
    return sorted(words)


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges that make every word one token (Sennrich et al. 2016, Alg. 1).

    Ties go to the pair that sorts first: the ids are the same everywhere, which the trainer of
    ``tokenizers`` does not promise (it walks its letters in hash order).
    """
    pieces = [[*word[:-1], word[-1] + END] for word in words]
    merges: list[tuple[str, str]] = []
    while True:
        counts = Counter(pair for p in pieces for pair in pairwise(p))
        if not counts:
            return merges
        merges.append(min(counts, key=lambda pair: (-counts[pair], pair)))
        pieces = [_merged(p, merges[-1]) for p in pieces]


def _merged(piece: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for symbol in piece:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer that knows every word of the captions as one token; 24 tokens long."""
    return tokenizer_of(caption_words(), recipe()["clip"]["text"]["max_position_embeddings"])


def tokenizer_of(words: list[str], length: int) -> CLIPTokenizer:
    """A CLIP tokenizer that knows each of the words as one token, with a window of ``length``."""
    merges = learn_merges(words)
    tokens = [*SPECIAL, *LETTERS, *(c + END for c in LETTERS), *(a + b for a, b in merges)]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": length,
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[1],
        "pad_token": SPECIAL[1],
        "unk_token": SPECIAL[1],
    }
    with TemporaryDirectory() as tmp:
        folder = Path(tmp)
        (folder / "vocab.json").write_text(json.dumps(vocab))
        lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n")
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return CLIPTokenizer.from_pretrained(folder)
