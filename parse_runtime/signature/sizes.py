"""Static sizes of passes; without torch, so that a capture's options and key need none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parse_runtime.signature.plan import cache_rows

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Tree:
    """Drafted tokens that an extend pass checks: `width` on each of `depth` levels (1: a chain)."""

    depth: int
    width: int = 1

    @property
    def rows(self) -> int:
        """The root, which is the last known token, and the drafted ones."""
        return 1 + self.depth * self.width

    @property
    def depths(self) -> list[int]:
        """Level of each row; a level's rows lie side by side."""
        return [0] + [level + 1 for level in range(self.depth) for _ in range(self.width)]

    def chains(self, slots: int) -> NDArray[np.int64]:
        """[slots, 3, rows]: drafts of token 0, the parents and ancestor bits of chains.

        A row's parent is the first row of the level before.
        """
        parents = [0 if d < 2 else 1 + (d - 2) * self.width for d in self.depths]
        ancestors: list[int] = [1]
        for row in range(1, self.rows):
            ancestors.append(ancestors[parents[row]] | 1 << row)
        one = np.asarray([[0] * self.rows, parents, ancestors], np.int64)
        return np.repeat(one[None], slots, axis=0)


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Static sizes of one model's passes."""

    max_len: int
    slots: int = 1
    prefill: tuple[int, ...] = ()
    verify: tuple[tuple[int, int], ...] = ()
    """(rows, cuts) of each verify pass."""
    decode: tuple[int, ...] = ()
    """Batches of the decode and extend passes; empty for powers of two up to the slots."""
    tree: Tree | None = None
    """What the extend passes check; None for no such passes."""

    @property
    def rows(self) -> int:
        """Rows of a slot's cache."""
        return cache_rows(self.max_len, max((length for length, _ in self.verify), default=0))

    @property
    def batches(self) -> tuple[int, ...]:
        """Rising batches, the last of all slots unless `decode` says otherwise."""
        if self.decode:
            return self.decode
        powers = [1 << i for i in range((self.slots - 1).bit_length())]
        return (*powers, self.slots)
