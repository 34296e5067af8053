"""Which blocks of a cache each slot has."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from parse_runtime.engine.blocks import BlockPool
from parse_runtime.signature.passes import ModelSignature
from parse_runtime.signature.sizes import BLOCK, blocks_of


class Tables:
    """The tables of a model's slots, over a pool; `values` as `ModelSignature.tables`.

    Where a bundle has no tables, slots have rows of their own: there are blocks for all of them,
    and none is shared.
    """

    def __init__(self, signature: ModelSignature) -> None:
        sizes = signature.sizes
        self.values = signature.tables.initial.copy()
        self.changed = False
        """Since the last time that somebody said otherwise."""
        self.pool = BlockPool(sizes.fixed_blocks, sizes.pool_blocks)
        self.rows = [0] * sizes.slots
        """Rows of each slot's sequence that have blocks; without end where all have."""
        self._held: list[list[int]] = [[] for _ in range(sizes.slots)]
        self._paged, self._most = sizes.kv_tokens is not None, blocks_of(sizes.max_len)
        self.ample = self.pool.count >= sizes.slots * self._most
        """Blocks suffice for all slots at their longest."""

    def reserve(self, slot: int, rows: int) -> bool:
        """Blocks for the first rows of a sequence; False, and none is taken, for too few."""
        if rows <= self.rows[slot]:
            return True
        missing = min(blocks_of(rows), self._most) - len(self._held[slot])
        if missing > self.pool.free:
            return False
        for _ in range(missing):
            self._append(slot, self.pool.take())
        return True

    def release(self, slot: int) -> None:
        """Give back all that the slot has; of what is kept, the sequence's end goes first."""
        held = self._held[slot]
        if held:
            self.values[slot, : len(held)] = 0
            self.rows[slot], self.changed = 0, True
        while held:
            self.pool.give_back(held.pop())

    def found(self, contents: Iterable[bytes], step: int) -> list[int]:
        """The blocks of the beginning of a sequence, as far as they are there in whole steps."""
        blocks: list[int] = []
        for content in contents if self._paged else ():
            if (block := self.pool.find(content)) is None:
                break
            blocks.append(block)
        return blocks[: len(blocks) * BLOCK // step * step // BLOCK]

    def share(self, slot: int, blocks: Sequence[int]) -> int:
        """Have an empty slot begin with blocks that were found; how many rows these are."""
        for block in blocks:
            self.pool.hold(block)
            self._append(slot, block)
        return len(blocks) * BLOCK

    def publish(self, slot: int, contents: Iterable[bytes]) -> None:
        """Let others find the first blocks of a slot, which nobody changes from now on."""
        if self._paged:
            for block, content in zip(self._held[slot], contents, strict=False):
                self.pool.publish(block, content)

    def _append(self, slot: int, block: int) -> None:
        held = self._held[slot]
        self.values[slot, len(held)] = block
        held.append(block)
        self.rows[slot] = len(held) * BLOCK if len(held) < self._most else sys.maxsize
        self.changed = True
