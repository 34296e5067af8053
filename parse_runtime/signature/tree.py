"""Draft trees: which drafted tokens an extend pass checks, and what each of them continues."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class DraftTree:
    """`width` drafted tokens on each of `depth` levels; of width 1 it is a chain."""

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
