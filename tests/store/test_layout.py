"""Which images lie in which shard."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sunbench.store.layout import CellLayout


def contents(layout: CellLayout) -> list[frozenset[tuple[int, int]]]:
    """(prompt, seed number) of the images of each shard."""
    return [
        frozenset(divmod(i, layout.seeds) for i in layout.shard(k)) for k in range(layout.shards)
    ]


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 9), st.integers(0, 60))
def test_more_prompts_and_seeds_keep_the_whole_shards(
    prompts: int, seeds: int, size: int, more: int
):
    small, large = CellLayout(prompts, seeds, size), CellLayout(prompts + more, seeds + 1, size)
    whole = {shard for shard in contents(small) if len(shard) == size}
    assert whole <= set(contents(large))


def test_one_seed_gives_consecutive_images():
    layout = CellLayout(7, 1, 3)
    assert [list(layout.shard(k)) for k in range(layout.shards)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_shard_is_a_block_of_prompts_at_one_seed():
    layout = CellLayout(5, 2, 3)
    assert [list(layout.shard(k)) for k in range(layout.shards)] == [
        [0, 2, 4], [1, 3, 5], [6, 8], [7, 9],
    ]  # fmt: skip
    assert layout.place(8) == (2, 1)
