"""The zoo's tokenizer: byte-pair merges learned on its own captions, in CLIP's format."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import CLIPTokenizer

from sunbench.zoo.data import GROUNDS, SIZES, colours, recipe, things

#: Words beyond the captions' own that negative prompts use.
EXTRA = "blurry noisy ugly broken empty dark bright flat line 3d style picture icon of the no two"


def style_words() -> list[str]:
    """The style word of each style; empty where a caption never names it."""
    return [s.get("words", "") for s in recipe()["styles"]]


def vocabulary() -> list[str]:
    """Every word that the zoo's captions use, in a fixed order."""
    words = {w for name, _, _ in things() for w in name.split()}
    words |= {c for c, _ in colours()} | set(GROUNDS) | set(SIZES) | set(style_words()) - {""}
    words |= {"a", "an", "on", "background", "large", *EXTRA.split()}
    return sorted(words)


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer that knows every word of the captions as one token; 24 tokens long."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    special = ["<|startoftext|>", "<|endoftext|>"]
    model = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    trainer = trainers.BpeTrainer(
        vocab_size=8192,
        min_frequency=0,
        special_tokens=special,
        initial_alphabet=letters,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    corpus = [*vocabulary(), *letters]
    model.train_from_iterator(corpus, trainer)
    state = json.loads(model.to_str())["model"]
    vocab = dict(state["vocab"])
    for letter in letters:
        vocab.setdefault(f"{letter}</w>", len(vocab))
    merges = ["#version: 0.2"] + [m if isinstance(m, str) else " ".join(m) for m in state["merges"]]
    with TemporaryDirectory() as tmp:
        folder = Path(tmp)
        (folder / "vocab.json").write_text(json.dumps(vocab))
        (folder / "merges.txt").write_text("\n".join(merges) + "\n")
        (folder / "tokenizer_config.json").write_text(
            json.dumps(
                {
                    "tokenizer_class": "CLIPTokenizer",
                    "model_max_length": recipe()["clip"]["text"]["max_position_embeddings"],
                    "bos_token": special[0],
                    "eos_token": special[1],
                    "pad_token": special[1],
                    "unk_token": special[1],
                }
            )
        )
        return CLIPTokenizer.from_pretrained(folder)
