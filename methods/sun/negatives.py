"""Negative prompts to train on: some phrases of a vocabulary, joined (section 4.1 of the paper)."""

from __future__ import annotations

import random
from pathlib import Path

from sunbench.errors import UserError
from sunbench.prompts.negatives import Vocabulary, phrases, zoo_vocabulary
from sunbench.store.files import read_text

#: Most phrases of a prompt; the zoo's 24 tokens hold 4.
MOST_PHRASES = 100


def vocabulary(file: str, most: int | None, *, zoo: bool) -> Vocabulary:
    """Negative phrases to sample: of a file (one per line), else the zoo's or the project's own."""
    if file:
        listed = _phrases(Path(file))
        return Vocabulary((listed,), MOST_PHRASES if most is None else most)
    own = zoo_vocabulary() if zoo else Vocabulary((phrases(),), MOST_PHRASES)
    return own if most is None else Vocabulary(own.kinds, most)


def _phrases(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise UserError(f"given negative phrases {path}, expected a file with one per line")
    lines = read_text(path).splitlines()
    phrases = tuple(dict.fromkeys(t for line in lines if (t := line.strip())))
    if not phrases:
        raise UserError(f"{path} holds 0 negative phrases, expected at least one")
    return phrases


def negative_prompt(rng: random.Random, words: Vocabulary) -> str:
    """0 to ``most`` phrases, uniformly, without replacement, joined by commas (section 4.1).

    A kind first, then a phrase of it. Only ``random()`` is used, Python's lasting stream.
    """
    left = [list(kind) for kind in words.kinds if kind]
    wanted = int(rng.random() * (words.most + 1))
    chosen: list[str] = []
    while left and len(chosen) < wanted:
        kind = left[int(rng.random() * len(left))]
        chosen.append(kind.pop(int(rng.random() * len(kind))))
        left = [kind for kind in left if kind]
    return ", ".join(chosen)
