"""Which bytes of captures are of addresses of their processes' own memory: these are noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from foundryc.compare.regions import Index, Mask, Regions
from foundryc.elsewhere import FILLS
from foundryc.template import Words

_HOST_LOWEST, _HOST_END = np.uint64(0x5500), np.uint64(0x8000)
"""Upper halves of the addresses where Linux puts programs, their heaps, libraries and stacks."""
_FLAGGED = np.array([0x5501, 0x5601, 0x7E01, 0x7F01], np.uint64)
"""Of programs and libraries, with a flag set over the lower byte."""
_FILLED = np.array([fill * 0x101 for fill in FILLS], np.uint64)[:, None]
"""Two bytes of what the captures' stacks are filled with."""


def bytes_of_host_addresses(
    values: Words, at: Index, equal: Mask, regions: Regions, may_be_gap: Callable[[Index], Mask]
) -> Mask:
    """Which bytes of the words `at` belong to addresses on the host, bool [n, 8].

    `equal`, bool [n, 8], are those that all captures have in common. The processes lie apart in
    every random byte (foundryc/slides.py), so such a byte is a value, such as a struct's last one
    before a gap in which half an address was left. These are none:

    - the highest byte of an address, for there are few;
    - the upper half of an address of what the process had mapped;
    - of one place in a library, all but the lowest byte: where a small one lies next to one at a
      multiple of large pages, the second is alike, and it does not lie there in all processes.
      So the second byte of a value of two is lost in front of what is left of such an address;
    - the bytes of an address above a flag, which may have been left there or not. So a value of 4
      bytes that is one of _FLAGGED loses its second byte behind what is left of an address.
    """
    upper, lower, elsewhere = _halves_of_host_addresses(values, at, may_be_gap)
    pointers = _pointers_into_process(values, at, regions, may_be_gap)
    byte = np.arange(8)
    in_library = np.zeros_like(pointers)
    in_library[pointers] = regions.in_one_library(values[:, pointers])
    may_be_value = equal & np.where(in_library[:, None], byte < 1, byte < 4)
    found: Mask = np.repeat(upper, 4, axis=1) & ~(equal & (byte % 4 == 0))
    found |= np.repeat(lower, 4, axis=1) & ~equal
    found |= np.repeat(elsewhere, 4, axis=1)
    found |= pointers[:, None] & ~may_be_value
    found |= _flagged(values)[:, None] & (byte > 4)
    return found


def _halves_of_host_addresses(
    values: Words, at: Index, may_be_gap: Callable[[Index], Mask]
) -> tuple[Mask, Mask, Mask]:
    """Which halves of the words `at` are upper and lower ones of such addresses, bool [n, 2] each.

    An upper half differs between the first two, so it is no value. With it goes the lower half, if
    it differs too; of an address 4 bytes in, that is in the word before. The third are lower halves
    in structs that differ with the place alone.
    """
    halves = np.stack([values & np.uint64(0xFFFFFFFF), values >> np.uint64(32)], axis=2)
    differ, top = halves[0] != halves[1], halves >> np.uint64(8)
    upper: Mask = differ & in_all((top == 0x55) | (top == 0x56) | (top >= 0x70) & (top < 0x80))
    lower = np.zeros_like(upper)
    lower[:, 0] = upper[:, 1]
    lower[:-1, 1] = upper[1:, 0] & (np.diff(at) == 1)
    elsewhere = lower & ~differ & (halves[0] != halves[2])
    some = np.flatnonzero(elsewhere.any(axis=1))
    elsewhere[some] &= may_be_gap(at[some])[:, None]
    return upper, lower & differ, elsewhere


def _pointers_into_process(
    values: Words, at: Index, regions: Regions, may_be_gap: Callable[[Index], Mask]
) -> Mask:
    """Which of the words `at` are addresses of host memory in all captures, bool [n].

    Their upper halves may be alike in all three, where Linux puts large libraries; the lower ones
    of the first two are not, or they might be a value beside half an address. A program that was
    linked for one place has its heap in the lowest 4 GiB: there what lies in structs, at multiples
    of 8 bytes, is no value either.
    """
    upper = values >> np.uint64(32)
    differ = (values[0] ^ values[1]) & np.uint64(0xFFFFFFFF) != 0
    high = in_all((upper >= _HOST_LOWEST) & (upper < _HOST_END))
    low = in_all((upper == 0) & (values % np.uint64(8) == 0))
    found: Mask = differ & (high | low) & regions.in_process(values)
    some = np.flatnonzero(found & low)
    found[some] = may_be_gap(at[some])
    return found


def _flagged(values: Words) -> Mask:
    """Which of uint64 [3, n] may be addresses of programs and libraries with a flag set in them.

    The highest byte of the lower half differs then, also of addresses in a thread's heap. The fill
    of a stack there is no address.
    """
    within = values >> np.uint64(16) & np.uint64(0xFFFF)
    highest = within >> np.uint64(8)
    found: Mask = in_all(np.isin(values >> np.uint64(32), _FLAGGED))
    found &= ~in_all(within == _FILLED)
    found &= (highest[0] != highest[1]) & (highest[1] != highest[2])
    return found


def on_host(halves: Words, regions: Regions) -> Mask:
    """Which upper halves, uint64 [3, n], an address on the host can have in all captures."""
    found = (halves >= _HOST_LOWEST) & (halves < _HOST_END)
    for capture in range(3):
        found[capture] &= ~regions.holding(capture, halves[capture])
    return in_all(found)


def in_all(found: Mask) -> Mask:
    """What is so in every capture: bool [3, n] to bool [n]."""
    every: Mask = np.logical_and.reduce(found, axis=0)
    return every
