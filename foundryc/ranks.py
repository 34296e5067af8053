"""Graphs that several processes run together: how they exchange data (docs/tensor-parallel.md)."""

from __future__ import annotations

import os

import torch

from foundryc.recording import Recording
from foundryrt.bundle.ranks import MESSAGE, MOST, RANK, first_words
from foundryrt.errors import UsageError
from foundryrt.host import exchange  # noqa: F401  makes its operator known to torch

_OWN = "FOUNDRY_RANK"
"""Which rank a capture is made as: the bundle is the same for each."""
_DTYPES = (torch.float32, torch.bfloat16)
_LARGEST = 8 << 30
"""Bytes of a buffer: kernels count its words, of 4 bytes, in 32 bits."""


class Ranks:
    """The exchange between `world` ranks.

    `words` int32 [4], as of foundryrt/bundle/ranks.py. `slabs` uint8 [world * stride], of which on
    cuda only the own slab has memory: a slab is two buffers of stride / 2 bytes, in which source s
    has its place at s * capacity.
    """

    def __init__(self, world: int, words: torch.Tensor, slabs: torch.Tensor, capacity: int) -> None:
        self.world = world
        self.words = words
        self.slabs = slabs
        self.capacity = capacity
        """Bytes a rank can send at a time, a multiple of 256."""
        self.stride = slabs.numel() // world
        self._next = 0

    def turn(self) -> int:
        """The buffer of the next exchange, 0 and 1 in turn; every exchange asks once, in order."""
        taken, self._next = self._next, 1 - self._next
        return taken

    def exchanges(self, x: torch.Tensor) -> int:
        """How many exchanges `x` takes."""
        return -(-x.numel() * x.element_size() // self.capacity)

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        """What all ranks have as `x`, [world, *x.shape], by rank; zeros of those that are absent.

        `x`: float32 or bfloat16, contiguous, of the same shape on all ranks. A zero may come as
        minus zero. UsageError for another tensor.
        """
        if x.dtype not in _DTYPES or not x.is_contiguous():
            raise UsageError(
                f"all_gather: x is {x.dtype}, strides {x.stride()} for shape {tuple(x.shape)}; give"
                " a contiguous tensor of float32 or bfloat16"
            )
        if x.is_cuda:
            from foundryc.cuda.exchange import all_gather

            return all_gather(x, self)
        out = torch.empty(self.world, *x.shape, dtype=x.dtype)
        turns = [self.turn() for _ in range(self.exchanges(x))]
        if turns:
            torch.ops.foundry.all_gather(
                x, self.words, self.slabs, turns[0], self.world, self.capacity, out=out
            )
        return out

    def begin(self) -> None:
        """A graph begins: its first exchange takes buffer 0."""
        self._next = 0

    def settle(self) -> None:
        """A graph ends: the next one launched, whichever it is, begins with buffer 0."""
        if self._next:
            self.all_gather(self.words[RANK : RANK + 1].view(torch.float32))


def open_ranks(recording: Recording, world: int, capacity: int) -> Ranks:
    """Ranks with their memory in `recording`; UsageError for what cannot be."""
    if not 2 <= world <= MOST:
        raise UsageError(f"{world} ranks: a bundle is for 2 to {MOST}")
    if capacity < 1:
        raise UsageError(f"ranks that can send {capacity} bytes: give room for what they send")
    capacity = -(-capacity // MESSAGE) * MESSAGE
    if world * capacity > _LARGEST:
        raise UsageError(
            f"{world} ranks that can send {capacity} bytes at a time: at most {_LARGEST // world};"
            " larger tensors go in parts"
        )
    rank = _own_rank(world)
    words, slabs = recording.ranks(
        world, rank, torch.tensor(first_words(), dtype=torch.int32), 2 * world * capacity
    )
    # Only here: the bundle, which holds what the words were when they were registered, has no rank.
    words[RANK] = rank
    return Ranks(world, words, slabs, capacity)


def _own_rank(world: int) -> int:
    text = os.environ.get(_OWN, "0")
    if not text.isascii() or not text.isdigit() or int(text) >= world:
        raise UsageError(f"{_OWN}={text!r}: of {world} ranks, give one from 0 to {world - 1}")
    return int(text)
