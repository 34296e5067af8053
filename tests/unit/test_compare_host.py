"""What is left of the process's own memory in kernels' arguments: all of it goes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundryc.compare import compare
from foundryc.compare.regions import Regions
from tests.unit import compared_captures
from tests.unit.test_compare import ONE_STRUCT, hand

RETURNS = 0x7F019B4E985D, 0x7F01736E985D, 0x7F017EEE985D
"""Addresses in a library of which Linux puts large pages apart: alike but for two bytes."""
Spans = list[tuple[int, int]]


def settled(values: tuple[int, int, int], maps: list[Spans]) -> int:
    """What is kept of a word, in processes that had mapped so much."""
    captures = hand([values, (0, 0, 0), (0, 0, 0)])
    own = [replace(c, mapped=spans) for c, spans in zip(captures, maps, strict=True)]
    return int(compare(*own).graphs[0].words[4])


def around(values: tuple[int, ...]) -> list[Spans]:
    return [[(1 << 46, 1 << 46), (v & ~0xFFFFF, v + 1)] for v in values]


def test_of_a_pointer_into_the_process_the_low_bytes_that_all_have_are_kept() -> None:
    apart = [[(begin, end + capture)] for capture, (_, (begin, end)) in enumerate(around(RETURNS))]
    assert settled(RETURNS, apart) == 0x985D
    # In one process it points to nothing: it is no pointer, and only what differs goes.
    spans = around(RETURNS)
    assert settled(RETURNS, [*spans[:2], [(RETURNS[2] + 1, RETURNS[2] + 9)]]) == 0x10000985D


@pytest.mark.parametrize("first", [0x7F7F405A1000, 0x7F0DF3FCB000])
def test_of_a_place_in_a_library_the_lowest_byte_is_kept_that_all_have(first: int) -> None:
    """The second byte may be alike, where all have the library next to one on a large page."""
    begins = first, 0x7F392D9A1000, 0x7F0C5EFA1000
    spans = [[(begin, begin + 0x4E000)] for begin in begins]
    values = begins[0] + 0x3CC8A, begins[1] + 0x3CC8A, begins[2] + 0x3CC8A
    assert settled(values, spans) == 0x8A
    # With another size it is no one library, and what all have in common may be a value.
    spans[0] = [(first, first + 0x4F000)]
    assert settled(values, spans) == (0xDC8A if first == 0x7F7F405A1000 else 0x8A)


def test_what_is_left_of_an_address_above_a_flag_goes() -> None:
    none: list[Spans] = [[], [], []]
    there = 0x7F01C9AE985D, 0x7F0178CE985D, 0x7F01CFEE985D
    filled = there[0], 0xA5A5A5013CAE985D, there[2]
    assert settled(there, none) == settled(filled, none) == 0x10000985D
    value = 0x7F01 << 32 | 0x985D
    assert settled((value, value, value + (1 << 20)), none) >> 32 == 0x7F01  # nothing is noise


def test_a_value_of_two_bytes_is_kept_before_what_is_left_of_a_place_in_a_large_library() -> None:
    """Linux puts it at a multiple of large pages in each process: 0x3F80 is 1 in bfloat16."""
    begins = 0x7F3A12200000, 0x7F5C9B600000, 0x7E71C4A00000
    spans = [[(begin, begin + (40 << 20))] for begin in begins]
    values = begins[0] + 0x123F80, begins[1] + 0x123F80, begins[2] + 0x123F80
    assert settled(values, spans) == 0x3F80
    # One that lies otherwise in the third process is at no such multiple.
    spans[2] = [(begins[2] + 0x10000, begins[2] + 0x10000 + (40 << 20))]
    assert settled((*values[:2], values[2] + 0x10000), spans) == 0x80


@pytest.mark.parametrize("value", [0x7F01, 0x7E01, 0x5501, 0x5601])
def test_a_value_like_a_flagged_address_is_kept_behind_a_filled_gap(value: int) -> None:
    none: list[Spans] = [[], [], []]
    filled = value << 32 | 1, value << 32 | 0xA5A5A501, value << 32 | 0x5A5A5A01
    assert settled(filled, none) == value << 32 | 1
    short = value << 32 | 7, value << 32 | 0xA5A50007, value << 32 | 0x5A5A0007
    assert settled(short, none) == value << 32 | 7
    # A count that was left there is no address.
    counted = value << 32 | 0x1207, value << 32 | 0x3407, value << 32 | 0x5607
    assert settled(counted, none) == value << 32 | 7


Left = tuple[tuple[int, int, int], list[Spans]]
"""What was left of an address in three processes, and what these had mapped."""


def left(kind: str, place: int, seed: int) -> Left:
    """Of the stack, the heap or a large library, in processes that lie apart in every byte."""
    random = np.random.default_rng(seed)
    if kind == "fill":
        return (0, 0xA5A5A5A5A5A5A5A5, 0x5A5A5A5A5A5A5A5A), [[], [], []]
    bytes_4, bytes_3 = random.permutation(253)[:3] + 1, random.permutation(253)[:3] + 1
    bytes_2 = 0x20 * (random.permutation(6)[:3] + 1)
    highest = {"library": 0x7F, "stack": 0x7F, "heap": 0x55}[kind]
    begins = [
        highest << 40 | int(four) << 32 | int(three) << 24 | int(two) << 16
        for four, three, two in zip(bytes_4, bytes_3, bytes_2, strict=True)
    ]
    spans: list[Spans] = [[(begin, begin + (8 << 20))] for begin in begins]
    if kind == "library":
        return tuple(begin + place for begin in begins), spans  # type: ignore[return-value]
    pages = random.permutation(16)[:3] << 12  # these lie at multiples of pages, and grow unlike
    within = 16 * random.permutation(15)[:3]
    spans = [
        [(begin, begin + size)]
        for begin, size in zip(begins, (1 << 20, 2 << 20, 3 << 20), strict=True)
    ]
    words = [
        b + (place & 0xF0F) + int(p) + int(w) for b, p, w in zip(begins, pages, within, strict=True)
    ]
    return tuple(words), spans  # type: ignore[return-value]


@settings(max_examples=400, deadline=None)
@given(
    kind=st.sampled_from(["library", "stack", "heap", "fill"]),
    place=st.integers(0, (1 << 21) - 1),
    spot=st.sampled_from([(0, 0), (0, 1), (0, 2), (0, 4), (4, 4)]),
    value=st.sampled_from([0, 1, 5, 0x3F80, 0x7F80, 32000, 1 << 31]) | st.integers(0, 2**32 - 1),
    seeds=st.tuples(st.integers(0, 2**32), st.integers(0, 2**32)),
)
def test_a_value_is_kept_before_and_behind_what_is_left(kind, place, spot, value, seeds) -> None:
    """And any two captures have the same word, whose value has `spot[1]` bytes at `spot[0]`."""
    at, size = spot
    value %= 1 << 8 * size
    if at == 4 and value in (0x7F01, 0x7E01, 0x5501, 0x5601) and kind != "fill":
        return
    mask = (1 << 8 * size) - 1 << 8 * at
    results = []
    for seed in seeds:
        words, spans = left(kind, place, seed)
        over = tuple(word & ~mask | value << 8 * at for word in words)
        results.append(settled(over, spans))  # type: ignore[arg-type]
        assert results[-1] & mask == value << 8 * at
    assert results[0] == results[1]


HEAP = 0x238C6E80, 0x14F84C80, 0x40FB7C80
"""Addresses in the heap of a program that was linked for one place."""


def test_of_a_heap_in_the_lowest_places_what_all_have_is_kept(monkeypatch) -> None:
    assert settled(HEAP, around(HEAP)) == 0x80
    monkeypatch.setattr(compared_captures, "skeleton", lambda _: ONE_STRUCT)
    assert settled(HEAP, around(HEAP)) == 0x80
    assert settled(HEAP, [*around(HEAP)[:2], []]) == 0x80
    # Within an object, and as the low bytes of all three happen to be.
    within = 0x19D6E4C8, 0x3E3C4AC8, 0x13356AC8
    assert settled(within, around(within)) == 0xC8
    # A flag over what was left of one is at no multiple of 8 bytes.
    flags = tuple(word & ~0xFF | 1 for word in HEAP)
    assert settled(flags, around(flags)) == 1  # type: ignore[arg-type]


def test_what_is_left_of_an_address_in_a_threads_heap_goes_above_a_flag() -> None:
    none: list[Spans] = [[], [], []]
    there = 0x7F0148123450, 0x7F015C123450, 0x7F0164123450  # at multiples of 64 MiB
    assert settled(there, none) == 0x100123450


@pytest.mark.parametrize("value", [5, 32000])
def test_a_value_is_kept_beside_half_a_pointer(value: int) -> None:
    """Of a pointer both halves would differ."""
    first = tuple(upper << 32 | value for upper in (0x7F01, 0x7F02, 0x7F03))
    assert settled(first, around(first)) == value  # type: ignore[arg-type]
    other = 0x5A00 << 32 | value, 0x5A00 << 32 | value, 0x5A00 << 32 | value + (1 << 20)
    assert settled(other, around(other)) >> 32 == 0x5A00


def test_a_value_is_kept_where_its_gap_holds_noise() -> None:
    values = tuple(32000 << 32 | gap << 8 | 1 for gap in (0x112233, 0x445566, 0x778899))
    assert settled(values, [[(1 << 46, 1 << 46)]] * 3) == 32000 << 32 | 1  # type: ignore[arg-type]


COUNTS = 0x7FFD00009D3D, 0x7FFC00009D3D, 0x7FFF00009D3E
"""Half an address of the stack, and how many calls the process had made."""


def test_a_count_that_differs_with_the_place_goes_with_half_an_address(monkeypatch) -> None:
    none: list[Spans] = [[], [], []]
    # In a pointer or scalar it may be a part of an address: only the byte that differs goes.
    assert settled(COUNTS, none) == 0x9D00
    monkeypatch.setattr(compared_captures, "skeleton", lambda _: ONE_STRUCT)
    assert settled(COUNTS, none) == 0
    alike = 0x7FFD00009D3D, 0x7FFC00009D3D, 0x7FFF00009D3D
    assert settled(alike, none) == 0x9D3D  # it may be a value


@settings(max_examples=60)
@given(
    ends=st.lists(st.integers(0, 200), max_size=8, unique=True).filter(lambda e: len(e) % 2 == 0),
    values=st.lists(st.integers(0, 210), min_size=1, max_size=12),
    moved=st.integers(0, 3),
)
def test_pointers_are_those_in_every_process(ends, values, moved) -> None:
    ends = sorted(ends)
    spans = list(zip(ends[::2], ends[1::2], strict=True))
    elsewhere = [(start + moved, end + moved) for start, end in spans]
    captures = hand([(0, 0, 0)])
    maps = (spans, spans[::-1], elsewhere)
    regions = Regions.of([replace(c, mapped=m) for c, m in zip(captures, maps, strict=True)])
    words = np.array([values, values, values], np.uint64)
    wanted = [all(any(s <= v < e for s, e in own) for own in maps) for v in values]
    assert regions.in_process(words).tolist() == wanted
    found = [{(v - s, e - s) for own in maps for s, e in own if s <= v < e} for v in values]
    same = [all_in and len(one) == 1 for all_in, one in zip(wanted, found, strict=True)]
    assert regions.in_one_library(words).tolist() == same
