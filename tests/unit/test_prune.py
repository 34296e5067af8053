"""Cubins cut down to some of their kernels; data/kernels.cubin is made by nvcc from kernels.cu."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from foundryc.cuda import elf
from foundryc.cuda.prune import prune
from foundryrt.errors import FoundryError

CUBIN = (Path(__file__).parent / "data" / "kernels.cubin").read_bytes()
THIRD = {"_Z5thirdILi1EEvPf", "_Z5thirdILi2EEvPf"}
ALL = {"first", "second", *THIRD}


def kernels(cubin: bytes) -> set[str]:
    return {s.name for s in elf.symbols(cubin) if s.kind == elf.FUNCTION and "$" not in s.name}


def variables(cubin: bytes) -> dict[str, bytes]:
    return {s.name: s.initial for s in elf.symbols(cubin) if s.kind == elf.OBJECT}


def section(cubin: bytes, wanted: str) -> bytes:
    """A section's contents by name, read apart from the code under test."""
    table, count = int.from_bytes(cubin[40:48], "little"), int.from_bytes(cubin[60:62], "little")
    names = int.from_bytes(cubin[62:64], "little")

    def field(index: int, start: int, size: int) -> int:
        at = table + 64 * index + start
        return int.from_bytes(cubin[at : at + size], "little")

    for index in range(count):
        at = field(names, 24, 8) + field(index, 0, 4)
        if cubin[at : cubin.index(b"\0", at)].decode() == wanted:
            return cubin[field(index, 24, 8) :][: field(index, 32, 8)]
    raise LookupError(wanted)


def damaged(place: int, value: int) -> bytes:
    return CUBIN[:place] + bytes([value]) + CUBIN[place + 1 :]


@pytest.mark.parametrize("keep", [{"first"}, {"second"}, THIRD, {"first", "second"}])
def test_what_is_kept_is_as_it_was(keep):
    cut = prune(CUBIN, keep)
    assert len(cut) < len(CUBIN)
    assert kernels(cut) == keep
    assert variables(cut) == variables(CUBIN)
    for name in keep:
        for prefix in (".text.", ".nv.info.", ".nv.constant0."):
            assert section(cut, prefix + name) == section(CUBIN, prefix + name)
    for name in ALL - keep:
        assert name.encode() not in cut


def test_cutting_twice_is_cutting_once():
    assert prune(prune(CUBIN, {"first", "second"}), {"first"}) == prune(CUBIN, {"first"})


def test_nothing_to_cut_leaves_the_binary():
    assert prune(CUBIN, {"first", "no such kernel"}) is CUBIN
    whole = prune(CUBIN, ALL)
    assert prune(whole, ALL) is whole


def test_a_binary_of_which_all_is_used_loses_what_debuggers_read():
    assert section(CUBIN, ".debug_frame")
    whole = prune(CUBIN, ALL)
    assert kernels(whole) == ALL and variables(whole) == variables(CUBIN)
    assert b"debug_" not in whole
    for name in ALL:
        assert section(whole, f".text.{name}") == section(CUBIN, f".text.{name}")


@pytest.mark.parametrize("length", [0, 3, 64, 500, len(CUBIN) - 1])
def test_what_is_cut_short_is_left_alone(length):
    assert prune(CUBIN[:length], {"first"}) == CUBIN[:length]


@given(st.integers(0, len(CUBIN) - 1), st.integers(0, 255))
@example(8749, 1)  # a section's alignment: terabytes of padding
@example(8751, 255)  # the same, more than can be asked for
@example(47, 255)  # the section table's place: beyond any address
def test_damage_is_no_reason_to_fail(place, value):
    prune(damaged(place, value), {"first"})


def test_any_damaged_header_byte_is_pruned_in_bounds():
    headers = int.from_bytes(CUBIN[40:48], "little")
    for place in [*range(64), *range(headers, len(CUBIN))]:
        assert len(prune(damaged(place, 0xFF), {"first"})) <= 4 * len(CUBIN)


@pytest.mark.parametrize("value", [0, 0x80, 0xFF])
def test_symbols_of_any_damaged_byte_are_read_or_refused(value):
    for place in range(len(CUBIN)):
        with contextlib.suppress(FoundryError):
            found = list(elf.symbols(damaged(place, value)))
            assert sum(len(symbol.initial) for symbol in found) <= len(CUBIN)
