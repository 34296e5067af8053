"""Comparing captures: what was planted is found, and nothing else passes."""

from __future__ import annotations

import re
import struct
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from foundryc.capture import Capture, RegionImage
from foundryc.capture_file import load, save
from foundryc.compare import compare, unclear
from foundryc.leaks import leaks, mapped
from foundryc.template import GraphTable
from foundryc.write import write_bundle
from foundryrt.bundle.schema import Function, Ranks, Relocation, Tensor, Variable
from foundryrt.errors import FoundryError
from tests.unit import compared_captures
from tests.unit.compared_captures import (
    AGAIN,
    ARENA,
    FIRST,
    KERNEL,
    MOVED,
    PAGE,
    Layout,
    Plan,
    Word,
    plans,
)

SEED = st.integers(0, 2**32)


def first_bytes(image: RegionImage) -> bytes:
    return b"".join(map(bytes, image.initial())) if image.initial else b""


def planted(words: list[Word]) -> list[tuple[int, int]]:
    return [(i, word.region) for i, word in enumerate(words) if word.region >= 0]


@settings(max_examples=60)
@given(plan=plans(), seed=SEED)
def test_exactly_the_planted_addresses_and_noise(plan: Plan, seed: int) -> None:
    result = compare(*plan.captures(seed))
    images, layout = result.regions, plan.layout
    assert result.relocatable
    own = [word for _, words in plan.nodes for word in words]
    columns = result.graphs[0].columns
    assert columns["parameters"].tolist() == [word.wanted(images, layout) for word in own]
    found = zip(columns["relocation_word"], columns["relocation_region"], strict=True)
    assert list(found) == planted(own)
    for region, image in enumerate(images):
        words = plan.contents.get(region, [])
        wanted = b"".join(word.wanted(images, layout).to_bytes(8, "little") for word in words)
        assert first_bytes(image).rstrip(b"\0") == wanted.rstrip(b"\0")
        assert [(r.offset // 8, r.region) for r in image.relocations] == planted(words)
    variable = result.variables[0]
    assert np.frombuffer(variable.data, np.uint64).tolist() == [
        word.wanted(images, layout) for word in plan.variable
    ]
    assert [(r.offset // 8, r.region) for r in variable.relocations] == planted(plan.variable)


def test_slabs_of_ranks_may_lie_anywhere() -> None:
    stride = 3 << 20
    bases = (ARENA, ARENA + (256 << 30), ARENA + (512 << 30))
    moved = tuple(base + (number + 1 << 33) for number, base in enumerate(bases))
    layout = Layout(("state", "io", "symmetric"), (64, 64, 3 * stride), (bases, bases, moved))
    addresses = [Word(region=2, offset=at, audits=(1, 1, 1)) for at in (0, 2 * stride + 512)]
    plan = Plan(layout, [(KERNEL, [Word(7)] * 4 + addresses)], {}, [Word(1)])
    ranks = Ranks(world=3, words=0)
    captures = []
    for own in plan.captures(0):
        regions = [*own.regions[:2], replace(own.regions[2], peer_stride=stride)]
        captures.append(replace(own, regions=regions, ranks=ranks))
    result = compare(*captures)
    assert result.ranks == ranks
    assert [image.peer_stride for image in result.regions] == [0, 0, stride]
    assert result.graphs[0].words[4:].tolist() == [bases[2], bases[2] + 2 * stride + 512]
    assert result.graphs[0].columns["relocation_region"].tolist() == [2, 2]


@settings(max_examples=20)
@given(plan=plans(), seeds=st.tuples(SEED, SEED), shift=st.integers(1, 1000))
def test_other_processes_give_the_same_bundle(plan: Plan, seeds, shift: int) -> None:
    """Other noise, other moves, foreign memory elsewhere: the same file, whatever was stored."""
    layout = plan.layout
    elsewhere = [
        tuple(base + (shift << 24) if i > 1 or c == MOVED else base for i, base in enumerate(bases))
        for c, bases in enumerate(layout.bases)
    ]
    other = replace(plan, layout=replace(layout, bases=tuple(elsewhere)))
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.fdy" for index in range(2)]
        for one, seed, path in zip((plan, other), seeds, paths, strict=True):
            result = compare(*one.captures(seed))
            save(result, path.with_suffix(".capture"))
            write_bundle(path, load(path.with_suffix(".capture")), "w", {}, {})
        assert paths[0].read_bytes() == paths[1].read_bytes()
        foreign = [
            (base, base + size)
            for one in (plan, other)
            for bases in one.layout.bases
            for base, size in list(zip(bases, layout.sizes, strict=True))[2:]
        ]
        assert leaks(paths[0], foreign, [str(folder)]) == []


@settings(max_examples=20)
@given(plan=plans())
def test_foreign_regions_lie_apart_behind_the_arena(plan: Plan) -> None:
    images = compare(*plan.captures(0)).regions
    assert [image.base for image in images[:2]] == list(plan.layout.bases[FIRST][:2])
    end = ARENA + (2 << 40)
    for image, before in zip(images[2:], plan.layout.bases[FIRST][2:], strict=True):
        assert image.base // PAGE * PAGE >= end
        assert image.base % PAGE == before % PAGE
        end = image.base + image.size


LAYOUT = Layout(
    ("state", "io", "foreign"),
    (1 << 20, 1 << 20, 1 << 20),
    (
        (ARENA, ARENA + (1 << 38), 0x7F1200200000),
        (ARENA, ARENA + (1 << 38), 0x7F3489600000),
        (ARENA + 0x10012200000, ARENA + (1 << 38) + 0x1AA98600000, 0x7F56C1A00000),
    ),
)
FIXED = replace(LAYOUT, bases=(LAYOUT.bases[0], LAYOUT.bases[0], LAYOUT.bases[2]))
FOREIGN = 2


def hand(
    values: list[tuple[int, int, int]],
    audited: dict[int, tuple[int, int, int]] | None = None,
    layout: Layout = LAYOUT,
) -> list[Capture]:
    """Captures of one kernel node whose arguments are `values`, each in three captures."""
    plan = Plan(layout, [(KERNEL, [Word(1)] * (4 + len(values)))], {}, [Word(1)])
    captures = plan.captures(0)
    for capture, one in enumerate(captures):
        table = one.graphs[0]
        words = table.words.copy()
        words[4:] = [value[capture] for value in values]
        known = {4 + i: r[capture] for i, r in (audited or {}).items() if r[capture] >= 0}
        columns = table.columns | {
            "parameters": words,
            "relocation_word": np.array(list(known), "<u4"),
            "relocation_region": np.array(list(known.values()), "<u1"),
        }
        graphs = [GraphTable(table.name, table.key, columns)]
        captures[capture] = replace(one, graphs=graphs)
    return captures


def address(region: int, offset: int, layout: Layout = LAYOUT) -> tuple[int, int, int]:
    return tuple(bases[region] + offset for bases in layout.bases)  # type: ignore[return-value]


def over_words(parts: list[bytes]) -> list[tuple[int, int, int]]:
    """Bytes in three captures as the words they fill."""
    return list(zip(*(struct.unpack(f"<{len(p) // 8}Q", p) for p in parts), strict=True))


ONE_STRUCT = struct.pack("<IHBBII", 24, 1, 0, 0, 0, 24)
"""Where the three words of arguments are one argument of 24 bytes."""
NODE = r"graph g\[batch=8\], node 0, kernel 'kernel_of_nodes': "


@pytest.mark.parametrize("region", [0, 1, FOREIGN])
@pytest.mark.parametrize("offset", [0, 8, 4097, 1 << 20])
def test_a_missed_address_is_refused_by_name(region: int, offset: int) -> None:
    name = LAYOUT.names[region]
    # Argument 1 of 4 bytes is at byte 12, argument 2 at byte 16.
    with pytest.raises(FoundryError, match=NODE + rf"argument 2, byte 0 of 12 .*region '{name}'"):
        compare(*hand([(1, 1, 1), (1, 1, 1), address(region, offset), (1, 1, 1)]))


@pytest.mark.parametrize("region", [0, 1, FOREIGN])
@pytest.mark.parametrize("byte", [1, 2, 3, 5, 6, 7])
def test_an_unaligned_address_is_refused_by_name(region: int, byte: int) -> None:
    parts = [bytes(byte) + struct.pack("<Q", v) + bytes(8 - byte) for v in address(region, 64)]
    argument, at = (0, byte) if byte < 12 else (1, byte - 12)
    where = rf"argument {argument}, byte {at} .*region '{LAYOUT.names[region]}'"
    with pytest.raises(FoundryError, match=NODE + where):
        compare(*hand([*over_words(parts), (0, 0, 0)]))


@pytest.mark.parametrize("region", [0, 1, FOREIGN])
@pytest.mark.parametrize("shift", [1, 4, 12])
def test_a_shifted_address_is_refused_by_name(region: int, shift: int) -> None:
    values = tuple(value >> shift for value in address(region, 0))
    where = rf"argument 0, byte 0 .*region '{LAYOUT.names[region]}', shifted right by {shift} bits"
    with pytest.raises(FoundryError, match=NODE + where):
        compare(*hand([values, (0, 0, 0)]))  # type: ignore[list-item]


@pytest.mark.parametrize("order", ["low first", "high first", "apart", "low alone"])
@pytest.mark.parametrize("region", [0, 1, FOREIGN])
def test_halves_of_an_address_are_refused_by_name(order: str, region: int) -> None:
    layout = FIXED
    parts = []
    for value in address(region, 0x5678, layout):
        low, high = struct.pack("<I", value & 0xFFFFFFFF), struct.pack("<I", value >> 32)
        parts.append({
            "low first": bytes(4) + low + bytes(8) + high + bytes(4),
            "high first": high + low,
            "apart": low + bytes(12) + high + bytes(4),
            "low alone": bytes(4) + low,
        }[order])  # fmt: skip
    with pytest.raises(FoundryError, match=NODE + r"argument \d, byte \d+ of \d+ differs where"):
        compare(*hand([*over_words(parts), (0, 0, 0)], layout=layout))


@pytest.mark.parametrize("order", ["low", "high"])
@pytest.mark.parametrize("region", [0, 1, FOREIGN])
def test_half_an_address_in_a_struct_is_residue(order: str, region: int, monkeypatch) -> None:
    """As in the arguments of ATen's reductions: 4 bytes that the stack held in a gap."""
    monkeypatch.setattr(compared_captures, "skeleton", lambda _: ONE_STRUCT)
    halves = [value & 0xFFFFFFFF for value in address(region, 0x5678, FIXED)]
    values = tuple(h << 32 | 1 if order == "high" else 1 << 32 | h for h in halves)
    words = compare(*hand([(7, 7, 7), values, (7, 7, 7)], layout=FIXED)).graphs[0].words  # type: ignore[list-item]
    assert words[4] == words[6] == 7
    assert not int(words[5]) & _differing(values)


@settings(max_examples=80)
@given(
    encode=st.sampled_from([
        lambda v: v ^ 0x5555555555555555, lambda v: (v * 3) % 2**64, lambda v: 2**64 - v,
        lambda v: v << 16, lambda v: int.from_bytes(v.to_bytes(8, "little"), "big"),
        lambda v: v + (1 << 48), lambda v: v | 1 << 63,
    ]),
    region=st.integers(0, FOREIGN),
    offset=st.integers(0, 1 << 20),
)  # fmt: skip
def test_however_an_address_is_hidden_it_is_not_kept(encode, region: int, offset: int) -> None:
    """Refused where a half can be told; else zeroed, so that the proof fails if it is needed."""
    values = tuple(encode(value) % 2**64 for value in address(region, offset, FIXED))
    assume(len(set(values)) > 1)
    try:
        result = compare(*hand([values, (0, 0, 0)], layout=FIXED))  # type: ignore[list-item]
    except FoundryError as error:
        assert re.match(NODE + "argument 0, byte", str(error))
    else:
        assert not result.graphs[0].words[4] & _differing(values)


def _differing(values: tuple[int, ...]) -> int:
    """The bytes in which they are unequal, as a mask."""
    differs = [len({(v >> 8 * b) & 255 for v in values}) > 1 for b in range(8)]
    return sum(255 << 8 * b for b in range(8) if differs[b])


@pytest.mark.parametrize("region", [0, 1, FOREIGN])
def test_an_address_where_no_compiler_puts_one_is_residue(region: int) -> None:
    """As in the arguments of ATen's reductions: the end of another struct, 4 bytes in."""
    parts = [bytes(4) + struct.pack("<Q", v) + bytes(4) for v in address(region, 64)]
    result = compare(*hand([*over_words(parts), (0, 0, 0)]))
    assert not any(
        int(word) & _differing(values)
        for word, values in zip(result.graphs[0].words[4:], over_words(parts), strict=False)
    )


@pytest.mark.parametrize(
    "values",
    [(0x7FFC0000252E, 0x7FFC0000252E, 0x7FFD0000273D), (0x311305F0, 0x2A8805F0, 0x7F38B2A1CF60),
     (0x7FFC00000000, 0x7FFC00000000, 0x7FFD00000000), (0x1374077D1A720000,) * 2 + (0xB20000,),
     (0x60C000000001, 0x60C000000001, 0x62C300000001)],
)  # fmt: skip
def test_residue_that_two_captures_share_is_noise(values) -> None:
    """Words that captures of ATen's, cuFFT's and CUTLASS's kernels had."""
    word = int(compare(*hand([values, (0, 0, 0)])).graphs[0].words[4])
    assert not word & _differing(values) and word == values[0] & ~_differing(values)


@pytest.mark.parametrize("since", [(60, 40, 20), (3000, 20, 40)])
def test_nothing_of_a_time_is_kept(since) -> None:
    """Its highest bytes are the same in captures that are made within minutes."""
    values = tuple(time.time_ns() - seconds * 10**9 for seconds in since)
    assert int(compare(*hand([values, (0, 0, 0)])).graphs[0].words[4]) == 0  # type: ignore[list-item]
    # What is no time of these days stays, but for the bytes that differ.
    later = tuple(value + (1 << 62) for value in values)
    word = int(compare(*hand([later, (0, 0, 0)])).graphs[0].words[4])  # type: ignore[list-item]
    assert word >> 61


@pytest.mark.parametrize("byte", [0, 4])
@pytest.mark.parametrize("highest", [(0x7F, 0x7F, 0x7F), (0x55, 0x56, 0x55)])
def test_of_an_address_on_the_host_the_byte_that_all_have_is_kept(byte: int, highest) -> None:
    """It may be a value that half an address is left behind. The highest byte is none."""
    between = 0x11223344, 0x55667788, 0x99AABBCC
    found = [top << 40 | middle << 8 | 0xB8 for top, middle in zip(highest, between, strict=True)]
    parts = [bytes(byte) + struct.pack("<Q", value) + bytes(8 - byte) for value in found]
    words = compare(*hand([*over_words(parts), (0, 0, 0)])).graphs[0].words[4:6]
    assert words.tobytes() == bytes(byte) + struct.pack("<Q", 0xB8) + bytes(8 - byte)


def test_types_that_half_an_address_is_left_behind_are_kept() -> None:
    """Three of a byte each, which torch's kernels that convert take, as an H200 has shown them."""
    values = 0x7FFFBB060706, 0x7FFEA8060706, 0x7FFC5F060706
    assert int(compare(*hand([values, (0, 0, 0)])).graphs[0].words[4]) == 0x060706


@pytest.mark.parametrize("tops", [(0x7F, 0x7F, 0x7F), (0x7F, 0x7E, 0x7F), (0x55, 0x55, 0x56)])
def test_nothing_of_its_upper_half_is_kept_behind_a_value(tops) -> None:
    """Or one process more with another highest byte would make another bundle."""
    middle = 0x11, 0x22, 0x33
    # The foreign region lies where libraries do: its upper halves are theirs.
    assert [base >> 40 for base in LAYOUT.bases[0][2:]] == [0x7F]
    values = tuple(top << 40 | m << 32 | 1 for top, m in zip(tops, middle, strict=True))
    assert int(compare(*hand([values, (0, 0, 0)])).graphs[0].words[4]) == 1  # type: ignore[list-item]


@pytest.mark.parametrize("offset", [0x10000, 0x2345])
def test_an_address_beside_a_foreign_region_is_none_in_it(offset: int) -> None:
    """A heap of the host whose upper half is that of device memory, in an aligned place."""
    bases = [bases[FOREIGN] & ~0xFFFFFFFF for bases in LAYOUT.bases]
    values = tuple(b | at << 24 | offset for b, at in zip(bases, (0x41, 0x82, 0x43), strict=True))
    kept = int(compare(*hand([values, (0, 0, 0)])).graphs[0].words[4])  # type: ignore[list-item]
    assert kept == offset  # which might be a value, with a part of an address behind it


def test_a_value_beside_noise_is_no_address_on_the_host() -> None:
    """A vocabulary of 32,000 behind a flag and its gap: as far as it goes, 0x7D00xxxxxx01."""
    values = tuple(32000 << 32 | gap << 8 | 1 for gap in (0x112233, 0x445566, 0x778899))
    word = int(compare(*hand([values, (0, 0, 0)])).graphs[0].words[4])
    assert word == 32000 << 32 | 1


@pytest.mark.parametrize("region", [0, 1, FOREIGN])
def test_an_upper_half_counts_where_nothing_else_of_an_address_moves(region: int) -> None:
    """Else it is residue beside a value of 4 bytes: an address would show its lower half, too."""
    values = tuple(value >> 32 | 7 << 32 for value in address(region, 0, FIXED))
    word = int(compare(*hand([values, (0, 0, 0)], layout=FIXED)).graphs[0].words[4])
    assert word >> 32 == 7 and not word & _differing(values)
    bases = tuple(tuple(base + (c << 32) for base in FIXED.bases[FIRST]) for c in (0, 0, 1))
    far = replace(FIXED, bases=bases)
    values = tuple(value >> 32 | 7 << 32 for value in address(region, 0, far))
    with pytest.raises(FoundryError, match="graph g"):
        compare(*hand([values, (0, 0, 0)], layout=far))


def test_memory_that_was_taken_in_another_order_is_refused() -> None:
    first, again = address(0, 0), address(1, 64)
    with pytest.raises(FoundryError, match=NODE + r"argument 0.*'state'\+0x0 .*'io'\+0x40 "):
        compare(*hand([(first[FIRST], again[AGAIN], first[MOVED]), (0, 0, 0)], {0: (0, 1, 0)}))


@pytest.mark.parametrize("audits", [(0, 1, 0), (0, 0, 1), (-1, 0, -1), (0, -1, 1)])
def test_in_a_struct_it_is_residue(audits, monkeypatch) -> None:
    """As beyond the dimensions of ATen's TensorInfo: addresses that an earlier call left there."""
    monkeypatch.setattr(compared_captures, "skeleton", lambda _: ONE_STRUCT)
    values = tuple(
        address(region, 64 * (1 + capture))[capture] if region >= 0 else 0x1234 << 32
        for capture, region in enumerate(audits)
    )
    captures = hand([(5, 5, 5), values, (6, 6, 6)], {1: audits})  # type: ignore[list-item]
    result = compare(*captures)
    assert list(result.graphs[0].words[4:]) == [5, 0, 6]
    assert "argument 0, byte 8 of 24" in unclear(*captures)[0]


@pytest.mark.parametrize("region", [0, 1, FOREIGN])
@pytest.mark.parametrize("value", [1, 8, 0x80000])
def test_a_value_beside_half_an_address_stays(region: int, value: int, monkeypatch) -> None:
    """The last stride that ATen's OffsetCalculator has, and the end of an address behind it: as a
    word, the address of the region's byte number `value`."""
    monkeypatch.setattr(compared_captures, "skeleton", lambda _: ONE_STRUCT)
    bases = [tuple(base & ~0xFFFFFFFF for base in own) for own in LAYOUT.bases[:2]]
    layout = replace(LAYOUT, bases=(*bases, LAYOUT.bases[MOVED]))
    values = tuple(a >> 32 << 32 | value for a in address(region, 0, layout))
    captures = hand([(5, 5, 5), values, (6, 6, 6)], {1: (region, region, -1)}, layout)  # type: ignore[list-item]
    word = int(compare(*captures).graphs[0].words[5])
    assert word & 0xFFFFFFFF == value and not word & _differing(values)
    assert not compare(*captures).graphs[0].columns["relocation_word"].size
    assert re.search(r"argument 0, byte 1[2-5] of 24", unclear(*captures)[0])


@pytest.mark.parametrize("boundary", ["the end of the first", "the start of the second"])
def test_between_neighbours_the_move_decides(boundary: str) -> None:
    """Whatever region the audit named; what moved together keeps what the audit said."""
    bases = ((ARENA, ARENA + (1 << 20), 0x7F00 << 32),) * 2
    layout = replace(LAYOUT, bases=(*bases, LAYOUT.bases[MOVED]))
    region, offset = (0, 1 << 20) if boundary == "the end of the first" else (1, 0)
    for named in (0, 1):
        audit = {0: (named, named, region)}
        result = compare(*hand([address(region, offset, layout), (0, 0, 0)], audit, layout))
        columns = result.graphs[0].columns
        assert columns["relocation_region"].tolist() == [region]
    together = replace(layout, bases=(*bases, tuple(base + (1 << 40) for base in bases[0])))
    for named in (0, 1):
        value = address(1, 0, together)
        result = compare(*hand([value, (0, 0, 0)], {0: (named,) * 3}, together))
        assert result.graphs[0].columns["relocation_region"].tolist() == [named]


def test_a_region_that_never_moved_proves_nothing() -> None:
    layout = replace(LAYOUT, bases=(*LAYOUT.bases[:2], (ARENA, *LAYOUT.bases[MOVED][1:])))
    with pytest.raises(FoundryError, match=NODE + "argument 0.*'state', which lay at one address"):
        compare(*hand([address(0, 8, layout), (0, 0, 0)], {0: (0, 0, 0)}, layout))
    compare(*hand([(1, 1, 1)], layout=layout))
    third = replace(LAYOUT, bases=(LAYOUT.bases[FIRST], LAYOUT.bases[MOVED], LAYOUT.bases[MOVED]))
    with pytest.raises(FoundryError, match=r"region 'state' lies at .* need one base"):
        compare(*hand([(1, 1, 1)], layout=third))


@settings(max_examples=80)
@given(
    kinds=st.lists(st.sampled_from(["stack", "library", "heap"]), min_size=8, max_size=8),
    within=st.lists(st.integers(0, (1 << 17) - 1), min_size=8, max_size=8),
    seed=SEED,
)
def test_addresses_on_the_host_are_never_taken_for_anything_else(kinds, within, seed) -> None:
    """Two processes have bytes of them in common by chance, which a third has not."""
    random = np.random.default_rng(seed)
    slides = [
        {
            "stack": 0x7FFC00000000 + (int(random.integers(1 << 30)) << 4),
            "library": 0x7F0000000000 + (int(random.integers(1 << 28)) << 12),
            "heap": 0x555500000000 + (int(random.integers(1 << 28)) << 12),
        }
        for _ in range(3)
    ]
    values = [
        tuple(slide[kind] + at for slide in slides) for kind, at in zip(kinds, within, strict=True)
    ]
    words = compare(*hand(values, layout=FIXED)).graphs[0].words[4:]  # type: ignore[arg-type]
    for word, value in zip(words.tolist(), values, strict=True):
        kept = [
            (word >> 8 * b) & 255 for b in range(8)
            if len({(v >> 8 * b) & 255 for v in value}) > 1
        ]  # fmt: skip
        assert not any(kept)


def half(value: int, residue: int) -> int:
    return value | residue << 32


def test_half_a_word_of_noise_leaves_the_other_half() -> None:
    values = tuple(half(8, residue) for residue in (0x11111111, 0x22222222, 0x33333333))
    result = compare(*hand([values, (0, 0, 0)]))  # type: ignore[list-item]
    assert result.graphs[0].words[4] == 8


def test_noise_in_what_counts_is_refused() -> None:
    captures = hand([(1, 1, 1)])
    columns = captures[AGAIN].graphs[0].columns
    words = columns["parameters"].copy()
    words[1] = 2
    other = GraphTable("g", {"batch": 8}, columns | {"parameters": words})
    with pytest.raises(FoundryError, match=NODE + "word 1 of its parameters is not the same in"):
        compare(captures[FIRST], replace(captures[AGAIN], graphs=[other]), captures[MOVED])

    def weights(capture: Capture, value: int, role: str) -> Capture:
        image = replace(capture.regions[1], initial=lambda: [bytes(16), bytes([value])])
        tensor = replace_struct(capture.tensors[0], shape=(32,), role=role)
        regions = [capture.regions[0], image, *capture.regions[2:]]
        return replace(capture, regions=regions, tensors=[tensor])

    for role in ("weight", "constant"):
        noisy = [weights(c, v, role) for c, v in zip(hand([]), (1, 2, 3), strict=True)]
        with pytest.raises(FoundryError, match=r"region 'io', byte 16 \(tensor 'x'\) is not the"):
            compare(*noisy)
    noisy = [weights(c, v, "input") for c, v in zip(hand([]), (1, 2, 3), strict=True)]
    assert compare(*noisy).regions[1].initial is None


def replace_struct(tensor: Tensor, **changes: object) -> Tensor:
    fields = {name: getattr(tensor, name) for name in tensor.__struct_fields__}
    return Tensor(**fields | changes)


def columns_of(capture: Capture, **changes: object) -> Capture:
    table = capture.graphs[0]
    return replace(capture, graphs=[GraphTable("g", table.key, table.columns | changes)])


DIFFERENT = {
    "device": (lambda c: replace(c, provenance={"device": "B"}), "provenance is"),
    "target": (lambda c: replace(c, target="host"), "target is 'cuda' and 'host'"),
    "region": (lambda c: replace(c, regions=c.regions[:-1]), "region 2 is .* and 'missing'"),
    "region's size": (
        lambda c: replace(c, regions=[replace(c.regions[0], size=64), *c.regions[1:]]),
        "region 0 is 'state, 1048576 bytes' and 'state, 64 bytes'",
    ),
    "owner": (
        lambda c: replace(c, regions=[*c.regions[:2], replace(c.regions[2], owner="cuDNN")]),
        "region 2 is 'foreign of a library.* and 'foreign of cuDNN",
    ),
    "kernel": (
        lambda c: replace(c, kernels=[b"other"]),
        "kernel binary 0 is .* with 'kernel_of_nodes' and .* with 'kernel_of_nodes'",
    ),
    "function": (
        lambda c: replace(c, functions=[Function(name="f", kernel=0, max_dynamic_shared=1)]),
        "function 0 is",
    ),
    "tensor": (lambda c: replace(c, tensors=[]), "tensor 0 is"),
    "variable": (
        lambda c: replace(c, variables=[Variable(kernel=0, name="v", data=bytes(9))]),
        "variable 0 is 'v of binary 0, 8 bytes' and 'v of binary 0, 9 bytes'",
    ),
    "graph": (
        lambda c: replace(c, graphs=[GraphTable("g", {"batch": 9}, c.graphs[0].columns)]),
        r"graph 0 is 'g\[batch=8\]' and 'g\[batch=9\]'",
    ),
    "nodes": (
        lambda c: replace(c, graphs=[GraphTable.of_nodes("g", {"batch": 8}, [], [], [], [])]),
        "has 1 nodes and 0",
    ),
    "kind": (lambda c: columns_of(c, kind=np.array([4], "<u1")), "node 0, kernel .*: its kind"),
    "parameters": (
        lambda c: columns_of(c, parameter_start=np.array([0, 3], "<u4")),
        "node 0, kernel .*: its parameters differ",
    ),
    "attributes": (
        lambda c: columns_of(c, skeleton=c.graphs[0].columns["skeleton"] + np.uint8(1)),
        "node 0, kernel .*: its launch attributes differ",
    ),
    "edges": (lambda c: columns_of(c, edge_from=np.array([0], "<u4")), "has other edges"),
}  # fmt: skip


@pytest.mark.parametrize("what", DIFFERENT)
@pytest.mark.parametrize("which", [AGAIN, MOVED])
def test_captures_of_different_things_are_refused(what: str, which: int) -> None:
    change, message = DIFFERENT[what]
    captures = hand([(1, 1, 1)])
    captures[which] = change(captures[which])
    ending = ("at the same base", "with its memory moved")[which - 1]
    with pytest.raises(FoundryError, match=f"the second {re.escape(ending)}: .*{message}"):
        compare(*captures)


def test_contents_are_compared_in_steps() -> None:
    """Addresses and noise far apart, stored in parts of other lengths, never whole in memory."""
    size = 64 << 20
    layout = replace(LAYOUT, sizes=(size, *LAYOUT.sizes[1:]))
    captures = hand([], layout=layout)
    at = [0, 8, (4 << 20) - 8, 4 << 20, size - 8]
    for index, capture in enumerate(captures):
        values = dict(zip(at, [address(1, 40)[index]] * 5, strict=True))
        values[16 << 20] = (0x1100, 0x2200, 0x3300)[index]

        def contents(values=values, part=(1 << 20) + 4096 * index) -> Iterator[bytes]:
            for start in range(0, size, part):
                data = bytearray(min(part, size - start))
                for offset, value in values.items():
                    if start <= offset < start + len(data):
                        struct.pack_into("<Q", data, offset - start, value)
                yield bytes(data)

        known = tuple(Relocation(offset=offset, region=1) for offset in at)
        image = replace(capture.regions[0], initial=contents, relocations=known)
        captures[index] = replace(capture, regions=[image, *capture.regions[1:]])
    tracemalloc.start()
    try:
        image = compare(*captures).regions[0]
        assert image.initial is not None
        length = sum(memoryview(part).nbytes for part in image.initial())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert length == size and peak < size
    assert [relocation.offset for relocation in image.relocations] == at
    data = np.frombuffer(first_bytes(image), np.uint64)
    assert np.flatnonzero(data).tolist() == [offset // 8 for offset in at]
    assert set(data[data != 0].tolist()) == {address(1, 40)[FIRST]}


def test_leaks_names_what_it_finds(tmp_path: Path) -> None:
    captures = hand([(0x7F0012345678, 0x7F0012345678, 0x7F0012345678)])
    image = replace(captures[FIRST].regions[0], initial=lambda: [bytes(8), b"/home/somebody\0\0"])
    regions = [image, *captures[FIRST].regions[1:]]
    write_bundle(tmp_path / "b.fdy", replace(captures[FIRST], regions=regions), "w", {}, {})
    maps = (
        "00400000-00401000 r--p 00000000 08:01 1 /usr/bin/program\n"
        "7f0012345000-7f0012346000 rw-p 00000000 00:00 0\n"
    )
    assert mapped(maps) == [(0x7F0012345000, 0x7F0012346000)]
    found = leaks(tmp_path / "b.fdy", mapped(maps), ["/home/somebody", "not there"])
    assert len(found) == 2
    assert found[0] == "template 0, word 4: 0x7f0012345678"
    assert "/home/somebody" in found[1] and "state" in found[1]
