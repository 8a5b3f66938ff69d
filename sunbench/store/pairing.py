"""The one check that images are paired: the same prompt, from the same noise."""

from __future__ import annotations

from collections.abc import Sequence

from sunbench.store.rows import ShardRow


def mispaired(
    mine: Sequence[ShardRow], theirs: Sequence[ShardRow], *, noise: bool = True
) -> str | None:
    """What is wrong with the first image that is not its counterpart's pair, or None.

    A pair is an image of one prompt at one place and, with ``noise``, from the same noise.
    """
    if len(mine) != len(theirs):
        return f"{len(mine)} images, expected its reference's {len(theirs)}"
    for a, b in zip(mine, theirs, strict=True):
        (*same, hashed), (*other, wanted) = _identity(a), _identity(b)
        if same != other or (noise and hashed != wanted):
            source, expected = (f" from noise {x}" if noise else "" for x in (hashed, wanted))
            return (
                f"image {a.index}: prompt {a.prompt_id}{source}, "
                f"expected its reference's prompt {b.prompt_id}{expected}"
            )
    return None


def _identity(row: ShardRow) -> tuple[int, str, str, str]:
    return row.index, row.prompt_id, row.prompt, row.noise_hash
