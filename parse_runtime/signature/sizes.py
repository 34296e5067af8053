"""Static sizes of a model's passes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

from parse_runtime.signature.plan import ALIGNMENT
from parse_runtime.signature.tree import DraftTree

BLOCK = 16
"""Rows of a block of the caches."""
DTYPES = ("float32", "bfloat16")
"""What weights, caches and hidden states may be."""
_MANY = 64
"""From so many rows on, half of a step's may not be padding: arithmetic bounds it."""
_TILE = 64
"""The most keys of a tile of attention (`parse_runtime.kernels.cuda.attend_rows`)."""


class PrefillSize(NamedTuple):
    """Of a prefill pass; of `prompts` above 1, rows of each begin at a multiple of ALIGNMENT."""

    rows: int
    prompts: int
    """Chunks of prompts that it takes at most."""


class SharedSize(NamedTuple):
    """Of a verify pass of several drafts; rows of each begin at a multiple of ALIGNMENT."""

    rows: int
    """Of all drafts together."""
    cuts: int
    """Of each draft, at most."""
    drafts: int


class MixedSize(NamedTuple):
    """Of a pass of prompts and a decode step."""

    rows: int
    """Of prompts."""
    prompts: int
    batch: int
    """Sequences of the step."""

    @property
    def prompt_rows(self) -> PrefillSize:
        return PrefillSize(self.rows, self.prompts)


def prompts_of(rows: int, slots: int) -> int:
    """How many prompts share a prefill pass of so many rows."""
    return max(min(slots, rows // ALIGNMENT), 1) if rows % ALIGNMENT == 0 else 1


def beside(sizes: Sequence[MixedSize], count: int) -> list[MixedSize]:
    """Those with the smallest batch that holds a step of so many sequences."""
    batch = min((size.batch for size in sizes if size.batch >= count), default=0)
    return [size for size in sizes if size.batch == batch]


def mixed_sizes(
    prefill: Iterable[int], batches: Iterable[int], slots: int
) -> tuple[MixedSize, ...]:
    """Passes of as many rows as prefill passes have, with a step's among them.

    Products of a few rows more take as long as those of many more. That prefill pass takes their
    prompts, too, where no step goes along.
    """
    found: dict[tuple[int, int], int] = {}
    for rows, batch in product(prefill, batches):
        left = (rows - batch) // ALIGNMENT * ALIGNMENT
        prompts = min(prompts_of(rows, slots), prompts_of(left, slots))
        if left > 0:
            found[batch, left] = max(prompts, found.get((batch, left), 0))
    return tuple(MixedSize(rows, found[batch, rows], batch) for batch, rows in sorted(found))


@dataclass(frozen=True, kw_only=True)
class PassSizes:
    """For each size there is a pass, so lists of them are what a capture costs."""

    max_len: int
    """Tokens of a sequence."""
    slots: int = 1
    kv_tokens: int | None = 0
    """Tokens that the sequences of all slots have room for, 0 for slots x max_len. None: slots
    have rows of their own and no tables, in bundles of before 2026-11-30."""
    kv_most: int = 0
    """Tokens that a session may give them room for; 0 for those."""
    prefill: tuple[int, ...] = ()
    """Rows, rising."""
    prompts: tuple[int, ...] = ()
    """Of each of `prefill`, the prompts that share it; empty where they take one slot only, as in
    bundles of before 2026-11-30."""
    verify: tuple[tuple[int, int], ...] = ()
    """(rows, cuts), rising."""
    shared: tuple[SharedSize, ...] = ()
    """Of verify passes of several drafts, rising; none in bundles of before 2026-11-30."""
    scored: tuple[int, ...] = ()
    """Of each of `verify`, the drafted tokens that it has evidence of; empty for none."""
    decode: tuple[int, ...] = ()
    """Batches of the decode and extend passes; empty for those of `batches`."""
    mixed: tuple[MixedSize, ...] = ()
    """Passes of prompts and a decode step together, by their batches, rising."""
    tree: DraftTree | None = None
    """What the extend passes check; None for no such passes."""

    @property
    def prefills(self) -> tuple[PrefillSize, ...]:
        """Sizes of prefill passes, rising."""
        prompts = self.prompts or (1,) * len(self.prefill)
        return tuple(map(PrefillSize, self.prefill, prompts))

    @property
    def scratch_row(self) -> int:
        """The first of a slot's rows for suffixes, in a block behind those of the sequence.

        Where drafts share passes, no tile of attention has keys of both.
        """
        if self.kv_tokens is None:
            return self.max_len + 1
        rows = self.sequence_blocks * BLOCK
        return -(-rows // _TILE) * _TILE if self.shared else rows

    @property
    def slot_rows(self) -> int:
        """Rows of a slot: the sequence, padding, and the suffixes of the largest verification."""
        lengths = [rows for rows, *_ in (*self.verify, *self.shared)]
        return self.scratch_row + max(lengths, default=0)

    @property
    def sequence_blocks(self) -> int:
        """Entries of a slot's table that are its own."""
        return blocks_of(self.max_len + 1)

    @property
    def fixed_blocks(self) -> int:
        """Blocks that belong to no slot: one for rows of no sequence, and all slots' scratch.

        The drafts of a verify pass have different rows of it, and nothing of their suffixes is read
        behind the pass.
        """
        return 1 + blocks_of(self.slot_rows) - self.sequence_blocks

    @property
    def pool_blocks(self) -> int:
        """Blocks that slots take and give back."""
        return blocks_of(self.kv_tokens or 0) or self.slots * blocks_of(self.max_len)

    @property
    def blocks(self) -> int:
        """Of the caches at capture."""
        return self.fixed_blocks + self.pool_blocks

    @property
    def most_blocks(self) -> int:
        """And those that a session may give them."""
        return max(self.blocks, self.fixed_blocks + blocks_of(self.kv_most))

    def holding(self, blocks: int) -> PassSizes:
        """Of a session whose caches have so many blocks."""
        return replace(self, kv_tokens=(blocks - self.fixed_blocks) * BLOCK)

    def scored_by(self, rows: int, cuts: int, drafts: int = 1) -> int:
        """Drafted tokens that the verify pass of that size has evidence of, of each draft.

        Of several, as many as the largest pass of one draft with as many cuts.
        """
        known = zip(self.verify, self.scored, strict=False)
        if drafts == 1:
            return dict(known).get((rows, cuts), 0)
        return max((count for (_, most), count in known if most == cuts), default=0)

    @property
    def batches(self) -> tuple[int, ...]:
        """Rising batches: unless `decode` says otherwise powers of two, above 64 with one between
        each two, and the slots."""
        if self.decode:
            return self.decode
        powers = [1 << i for i in range((self.slots - 1).bit_length())]
        between = [3 * power // 2 for power in powers if power >= _MANY]
        return (*sorted(powers + [size for size in between if size < self.slots]), self.slots)


def blocks_of(rows: int) -> int:
    """Blocks that hold so many rows."""
    return -(-rows // BLOCK)
