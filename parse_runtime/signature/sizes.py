"""Static sizes of a model's passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from parse_runtime.signature.plan import ALIGNMENT
from parse_runtime.signature.tree import DraftTree

BLOCK = 16
"""Rows of a block of the caches."""
DTYPES = ("float32", "bfloat16")
"""What weights, caches and hidden states may be."""


class PrefillSize(NamedTuple):
    """Of a prefill pass; of `prompts` above 1, rows of each begin at a multiple of ALIGNMENT."""

    rows: int
    prompts: int
    """Chunks of prompts that it takes at most."""


def prompts_of(rows: int, slots: int) -> int:
    """How many prompts share a prefill pass of so many rows."""
    return max(min(slots, rows // ALIGNMENT), 1) if rows % ALIGNMENT == 0 else 1


@dataclass(frozen=True, kw_only=True)
class PassSizes:
    """For each size there is a pass, so lists of them are what a capture costs."""

    max_len: int
    """Tokens of a sequence."""
    slots: int = 1
    kv_tokens: int | None = 0
    """Tokens that the sequences of all slots have room for, 0 for slots x max_len. None: slots
    have rows of their own and no tables, in bundles of before 2026-11-30."""
    prefill: tuple[int, ...] = ()
    """Rows, rising."""
    prompts: tuple[int, ...] = ()
    """Of each of `prefill`, the prompts that share it; empty where they take one slot only, as in
    bundles of before 2026-11-30."""
    verify: tuple[tuple[int, int], ...] = ()
    """(rows, cuts), rising."""
    scored: tuple[int, ...] = ()
    """Of each of `verify`, the drafted tokens that it has evidence of; empty for none."""
    decode: tuple[int, ...] = ()
    """Batches of the decode and extend passes; empty for 1, 2, 4, ... and the slots."""
    tree: DraftTree | None = None
    """What the extend passes check; None for no such passes."""

    @property
    def prefills(self) -> tuple[PrefillSize, ...]:
        """Sizes of prefill passes, rising."""
        prompts = self.prompts or (1,) * len(self.prefill)
        return tuple(map(PrefillSize, self.prefill, prompts))

    @property
    def scratch_row(self) -> int:
        """The first of a slot's rows for suffixes, in a block behind those of the sequence."""
        return self.max_len + 1 if self.kv_tokens is None else self.sequence_blocks * BLOCK

    @property
    def slot_rows(self) -> int:
        """Rows of a slot: the sequence, padding, and the suffixes of the largest verification."""
        return self.scratch_row + max((length for length, _ in self.verify), default=0)

    @property
    def sequence_blocks(self) -> int:
        """Entries of a slot's table that are its own."""
        return blocks_of(self.max_len + 1)

    @property
    def fixed_blocks(self) -> int:
        """Blocks that belong to no slot: one for rows of no sequence, and all slots' scratch.

        A verification is about one slot, and nothing of its suffixes is read behind it.
        """
        return 1 + blocks_of(self.slot_rows) - self.sequence_blocks

    @property
    def pool_blocks(self) -> int:
        """Blocks that slots take and give back."""
        return blocks_of(self.kv_tokens or 0) or self.slots * blocks_of(self.max_len)

    def scored_by(self, rows: int, cuts: int) -> int:
        """Drafted tokens that the verify pass of that size has evidence of."""
        return dict(zip(self.verify, self.scored, strict=False)).get((rows, cuts), 0)

    @property
    def step_rows(self) -> int:
        """Most rows of a decode or extend pass."""
        return max(self.batches) * (self.tree.rows if self.tree else 1)

    @property
    def batches(self) -> tuple[int, ...]:
        """Rising batches, the last of all slots unless `decode` says otherwise."""
        if self.decode:
            return self.decode
        powers = [1 << i for i in range((self.slots - 1).bit_length())]
        return (*powers, self.slots)


def blocks_of(rows: int) -> int:
    """Blocks that hold so many rows."""
    return -(-rows // BLOCK)
