"""Which images of a cell lie in which shard: a block of prompts at one seed.

Image ``i`` shows prompt ``i // seeds`` with seed number ``i % seeds``, whatever the size of shards.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CellLayout:
    """The images of a cell in its shards; size: prompts of a whole shard.

    Shard ``k`` is block ``k // seeds`` of prompts at seed number ``k % seeds``, so that more
    prompts or more seeds leave the shards that are there as they are.
    """

    prompts: int
    seeds: int
    size: int

    @property
    def images(self) -> int:
        """How many images there are."""
        return self.prompts * self.seeds

    @property
    def shards(self) -> int:
        """How many shards they fill."""
        return -(-self.prompts // self.size) * self.seeds

    @property
    def stored(self) -> list[int]:
        """Image numbers in the order in which the shards hold them."""
        return [i for k in range(self.shards) for i in self.shard(k)]

    def block(self, k: int) -> range:
        """Numbers of the prompts of shard k."""
        start = k // self.seeds * self.size
        return range(start, min(start + self.size, self.prompts))

    def shard(self, k: int) -> range:
        """Image numbers of shard k, from one seed to the same seed of the next prompt."""
        block, seed = self.block(k), k % self.seeds
        return range(block.start * self.seeds + seed, block.stop * self.seeds, self.seeds)

    def place(self, i: int) -> tuple[int, int]:
        """The shard of image i and its row in there."""
        prompt, seed = divmod(i, self.seeds)
        block, row = divmod(prompt, self.size)
        return block * self.seeds + seed, row
