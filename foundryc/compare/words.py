"""The same words of three captures: which are addresses, which are noise, and what remains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from foundryc.compare.clocks import clock_readings
from foundryc.compare.host_addresses import (
    bytes_of_host_addresses,
    in_all,
    on_host,
)
from foundryc.compare.regions import Audit, Index, Mask, Regions
from foundryc.template import Words
from foundryrt.errors import FoundryError
from foundryrt.printable import quoted

REMEDY = "with --no-relocate the bundle is bound to its addresses"
_NONE = -1
_SHIFTS = range(1, 17)
"""Bits by which a word may hold a shifted address: descriptors leave out what alignment fixes."""


class Place(Protocol):
    """Where words are: a graph, a region or a variable."""

    def name(self, word: int, byte: int) -> str:
        """Byte `byte` of word `word`, for a message."""

    def is_fixed(self, words: Index) -> Mask:
        """Which of the words, uint64 [n], must be equal in every capture unless they move."""

    def is_argument(self, words: Index) -> Mask:
        """Which of them are arguments of kernels: compilers align every pointer there."""

    def may_be_gap(self, words: Index) -> Mask:
        """Which of them may lie where a struct has a gap, with half an address of another one."""


@dataclass(frozen=True, eq=False)
class Settled:
    """`words` of the bundle, uint64 [n]; `relocated` rises, `region` has one for each of them.

    `unclear` are the bytes, 8 a word, that differ with the place alone and follow no region; the
    first ones of their words.
    """

    words: Words
    relocated: Index
    region: Index
    unclear: Index


def settle(words: Words, audited: Audit, regions: Regions, place: Place) -> Settled:
    """Compare uint64 [3, n]: of a capture, of another at the same base, of one that was moved.

    `audited`, int16 [3, n], has the region that each capture's audit found a word to point into, -1
    for none. FoundryError names the first word that is none of: the same in all, an address that
    moved with its region and that the audit found, noise.
    """
    first = words[0]
    known = audited[0] != _NONE
    suspects = np.flatnonzero((words[1] != first) | (words[2] != first) | known)
    if not suspects.size:  # As in most of a large region.
        return Settled(first, suspects, suspects, suspects)
    values, known = words[:, suspects], known[suspects]
    region, offset = regions.find(values, audited[0, suspects])
    found = region != _NONE

    for at in suspects[found & ~known][:1]:
        _hidden(words, regions, place, int(at), 0, 0)
    constant = (values == values[0]).all(axis=0)
    _check_moved(suspects, audited[0, suspects], ~found & known & constant, regions, place)
    rest = suspects[~found & ~constant]
    _check_offsets(words, audited, rest, regions, place)
    _check_hidden(words, rest, regions, place)

    result = first.copy()
    result[suspects[found]] = regions.placed[region[found]] + offset[found]
    noise, unclear = _noise(words, rest, regions, place)
    result[rest] &= ~noise
    stale = _stale(audited, rest, place)
    unclear[stale] = _bytes(noise[stale]) != 0
    some = unclear.any(axis=1)
    doubts = 8 * rest[some] + unclear[some].argmax(axis=1)
    return Settled(result, suspects[found], region[found], doubts)


def _check_moved(
    suspects: Index, audited: Audit, unclear: Mask, regions: Regions, place: Place
) -> None:
    """FoundryError where a word stayed as its region did: address and value look alike."""
    unclear = unclear & ~regions.moved[audited]
    for index in np.flatnonzero(unclear)[:1]:
        raise FoundryError(
            f"{place.name(int(suspects[index]), 0)} may be an address in region"
            f" {quoted(regions.names[audited[index]])}, which lay at one address in all captures,"
            f" so nothing tells it from a value; capture again, or {REMEDY}"
        )


def _check_offsets(
    words: Words, audited: Audit, rest: Index, regions: Regions, place: Place
) -> None:
    """FoundryError where every capture has an address in a word, but not of the same thing.

    Not in a struct, where it may be what an earlier call left on the stack: see _stale.
    """
    wandering = rest[(audited[:, rest] != _NONE).all(axis=0)]
    wandering = wandering[~place.may_be_gap(wandering)]
    for word in wandering[:1]:
        owners = audited[:, word]
        within = words[:, word] - regions.bases[range(3), owners]
        ends = [
            f"{quoted(regions.names[o])}+{int(w):#x}" for o, w in zip(owners, within, strict=True)
        ]
        raise FoundryError(
            f"{place.name(int(word), 0)} points to {ends[0]} in one capture, to {ends[1]} in one"
            f" at the same base and to {ends[2]} in one that was moved; memory must be taken in"
            f" one order: capture again, or {REMEDY}"
        )


def _stale(audited: Audit, rest: Index, place: Place) -> Mask:
    """Which of the words `rest` look like an address in some capture, bool [n], and are in structs.

    They follow no region, so what differs in them is residue, an address or the upper half of one.
    A lower half that is the same in all captures may be a value, and stays: the last of a struct's
    strides, with residue behind it. The proof shows whether the rest matters.
    """
    found: Mask = (audited[:, rest] != _NONE).any(axis=0)
    some = np.flatnonzero(found)
    found[some] = place.may_be_gap(rest[some])
    return found


def _check_hidden(words: Words, rest: Index, regions: Regions, place: Place) -> None:
    """FoundryError where an unaligned or a shifted word follows a region."""
    starts = np.union1d(rest - 1, rest)
    starts = starts[(starts >= 0) & (starts < words.shape[1] - 1)]
    for byte in range(1, 8):
        # Compilers align pointers to 8 bytes; residue of other structs is aligned to 4.
        begins = starts[~place.is_argument(starts)] if byte == 4 else starts
        low, high = np.uint64(8 * byte), np.uint64(64 - 8 * byte)
        window = words[:, begins] >> low | words[:, begins + 1] << high
        for at in _following(window, regions, begins):
            _hidden(words, regions, place, at, byte, 0)
    for shift in _SHIFTS:
        for at in _following(words[:, rest] << np.uint64(shift), regions, rest):
            _hidden(words, regions, place, at, 0, shift)


def _following(values: Words, regions: Regions, words: Index) -> list[int]:
    """The first of `words` whose value follows a region, if there is one."""
    region, _ = regions.find(values, np.full(len(words), _NONE, np.int16))
    return [int(word) for word in words[region != _NONE][:1]]


def _hidden(
    words: Words, regions: Regions, place: Place, word: int, byte: int, shift: int
) -> NoReturn:
    """Refuse an address that the audit does not know of."""
    value = words[:, word]
    if byte:
        value = value >> np.uint64(8 * byte) | words[:, word + 1] << np.uint64(64 - 8 * byte)
    value = value << np.uint64(shift)
    region, offset = regions.find(value[:, None], np.full(1, _NONE, np.int16))
    form = f", shifted right by {shift} bits," if shift else ""
    raise FoundryError(
        f"{place.name(word, byte)} holds an address in region"
        f" {quoted(regions.names[int(region[0])])}{form} that the audit did not find"
        f" (+{int(offset[0]):#x}), so it cannot be moved; {REMEDY}"
    )


def _noise(words: Words, rest: Index, regions: Regions, place: Place) -> tuple[Words, Mask]:
    """The bytes of the words `rest` that are noise, as masks of ones, uint64 [len(rest)].

    Those that differ between two captures at one base, and what follows no region, or is half an
    address in a struct: two captures have bytes of residue in common by chance, or because they ran
    the same code. And which bytes are of the second kind, bool [len(rest), 8]. FoundryError names
    the first byte that is a part of an address, or that must not differ.
    """
    first, again, moved = words[:, rest]
    noisy = _bytes(first ^ again) != 0
    changed = _bytes(first ^ moved) != 0
    equal = ~(noisy | changed)
    noisy |= changed & _by_chance(words[:, rest], noisy, regions)
    noisy |= bytes_of_host_addresses(words[:, rest], rest, equal, regions, place.may_be_gap)
    noisy |= clock_readings(words[:, rest])[:, None]
    for index in np.flatnonzero(noisy.any(axis=1) & place.is_fixed(rest))[:1]:
        where = place.name(int(rest[index]), int(noisy[index].argmax()))
        raise FoundryError(
            f"{where} is not the same in two captures at one base ({int(first[index]):#x} and"
            f" {int(again[index]):#x}); make the capture repeatable, such as by seeding torch"
        )
    unclear = changed & ~noisy
    halves = _halves(words[:, rest], rest, regions, place.is_argument(rest))
    some = np.flatnonzero(halves.any(axis=1))
    halves[some[place.may_be_gap(rest[some])]] = False
    refused = unclear & (np.repeat(halves, 4, axis=1) | place.is_fixed(rest)[:, None])
    for index in np.flatnonzero(refused.any(axis=1))[:1]:
        byte = int(refused[index].argmax())
        raise FoundryError(
            f"{place.name(int(rest[index]), byte)} differs where memory lies elsewhere, but is no"
            f" address ({int(first[index]):#x}, moved {int(moved[index]):#x}): it may be a part of"
            f" one, or made of one; {REMEDY}"
        )
    masks = np.where(noisy | unclear, np.uint8(255), np.uint8(0))
    return masks.view(np.uint64).reshape(len(rest)), unclear


def _halves(values: Words, at: Index, regions: Regions, argument: Mask) -> Mask:
    """Which lower and upper halves of the words `at` follow those of an address, bool [n, 2].

    Of two that are an unaligned address together, in arguments, neither: see _check_hidden. Nor
    upper halves where the move shows in lower ones: an address has both. What is left of one
    behind a value of 4 bytes, where compilers leave a gap, is residue.
    """
    low, high = values & _HALF, values >> np.uint64(32)
    found = np.zeros((values.shape[1], 2), bool)
    for index in np.flatnonzero(regions.moved):
        bases, size = regions.bases[:, index], regions.sizes[index]
        for column, half in enumerate((low, high)):
            found[:, column] |= _follows_low(half, bases, size) | _follows_high(half, bases, size)
    unaligned = np.zeros_like(found)
    window = high[:, :-1] | low[:, 1:] << np.uint64(32)
    region, _ = regions.find(window, np.full(window.shape[1], _NONE, np.int16))
    pairs = (region != _NONE) & argument[:-1] & argument[1:] & (np.diff(at) == 1)
    unaligned[:-1, 1] |= pairs
    unaligned[1:, 0] |= pairs
    return found & ~unaligned


def _follows_low(half: Words, bases: Words, size: np.uint64) -> Mask:
    """Whether uint64 [3, n] are lower halves of one place in a region whose move shows there."""
    within = half - bases[:, None] & _HALF
    shows: Mask = ((bases ^ bases[0]) & _HALF != 0).any()
    same: Mask = shows & (within == within[0]).all(axis=0) & (within[0] <= size)
    return same


def _follows_high(half: Words, bases: Words, size: np.uint64) -> Mask:
    """Whether uint64 [3, n] can be upper halves of one place in a region whose move shows there
    alone."""
    lowest, highest = bases >> np.uint64(32), bases + size >> np.uint64(32)
    shows: Mask = (lowest != lowest[0]).any() & ~((bases ^ bases[0]) & _HALF).any()
    return shows & in_all((half >= lowest[:, None]) & (half <= highest[:, None]))


_HALF = np.uint64(0xFFFFFFFF)


def _by_chance(values: Words, noisy: Mask, regions: Regions) -> Mask:
    """Which bytes of noise two captures may have in common by chance, bool [n, 8].

    Those beside noise in their half of a word, for values have 4 bytes or 8. And the upper half of
    an address on the host, whose lower half is noise: its random part reaches into 2 bits of it.
    """
    lower, upper = noisy[:, :4].any(axis=1), noisy[:, 4:].any(axis=1)
    upper |= lower & on_host(values >> np.uint64(32), regions)
    return np.repeat(np.stack([lower, upper], axis=1), 4, axis=1)


def _bytes(words: Words) -> npt.NDArray[np.uint8]:
    """uint8 [n, 8], the lowest first."""
    return np.ascontiguousarray(words, "<u8").view(np.uint8).reshape(len(words), 8)
