"""Pinned staging buffers that a process which stands by keeps from one session to the next."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from foundryrt.cuda.driver import Driver
from foundryrt.cuda.pinned import HUGE_PAGE, block
from foundryrt.undo import Undo

CHUNK = HUGE_PAGE
"""Bytes of a buffer."""
_FOR_ALL_CONTEXTS = 1  # CU_MEMHOSTREGISTER_PORTABLE
_kept: list[memoryview] = []


def keep(cuda: Driver, count: int) -> None:
    """Pin `count` buffers for as long as the process lives, with a context current.

    Their first touch alone takes tens of milliseconds on a virtual machine. FoundryError where
    there is no memory for them.
    """
    memory = block(count * CHUNK)
    cuda("cuMemHostRegister_v2", memory, len(memory), _FOR_ALL_CONTEXTS)
    whole = memoryview(memory).cast("B")
    _kept.extend(whole[start : start + CHUNK] for start in range(0, len(whole), CHUNK))


def take(most: int, undo: Undo) -> list[memoryview]:
    """Up to `most` of those that nobody has; `undo` gives them back."""
    taken: list[memoryview] = []
    undo.push(partial(_give_back, taken))
    with suppress(IndexError):
        while len(taken) < most:
            taken.append(_kept.pop())
    return list(taken)


def _give_back(taken: list[memoryview]) -> None:
    # One that an interrupt loses is pinned for nobody; none is given back twice.
    while taken:
        _kept.append(taken.pop())
