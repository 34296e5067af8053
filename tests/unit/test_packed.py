"""What of a region's bytes is stored: all but long runs of zeros, wherever the parts are cut."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundryc import packed
from foundryc.capture import Capture, RegionImage
from foundryc.difference import compare as differences
from foundryc.packed import Packed
from foundryc.write import write_bundle
from foundryrt.bundle.alike import check_alike
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Extent, Region, Requirements
from foundryrt.errors import UsageError

RUNS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, packed.SHORTEST * 5 // 2)), max_size=8)


def made(runs: list[tuple[int, int]]) -> bytes:
    return b"".join(bytes([7 * filled]) * size for filled, size in runs)


def put_back(region: Region, stored: bytes) -> bytes:
    data, start = bytearray(region.size), 0
    for extent in region.extents or ():
        data[extent.offset : extent.offset + extent.size] = stored[start : start + extent.size]
        start += extent.size
    assert start == len(stored)
    return bytes(data)


@given(RUNS, st.lists(st.integers(0, packed.SHORTEST * 3), max_size=5))
def test_the_bytes_are_the_same_and_long_zeros_are_not_stored(
    runs: list[tuple[int, int]], cuts: list[int]
) -> None:
    data = made(runs)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    buffers = [data[start:end] for start, end in itertools.pairwise(edges)]
    parts = Packed(buffers)
    stored = b"".join(parts)
    extents = parts.extents or (Extent(offset=0, size=len(stored)),)
    region = Region(name="state", base=0, size=len(data), extents=extents)
    assert put_back(region, stored) == data
    assert packed.runs(lambda: buffers) == [
        (extent.offset, data[extent.offset : extent.offset + extent.size])
        for extent in extents
        if extent.size
    ]
    apart = [b.offset - a.offset - a.size for a, b in itertools.pairwise(extents)]
    assert all(gap >= packed.SHORTEST for gap in apart)
    assert all(extent.offset % 8 == 0 for extent in extents)
    whole = Packed([data])
    assert b"".join(whole) == stored and whole.extents == parts.extents
    # What is looked at together may have zeros before and behind others.
    longest = max((len(run) for run in stored.split(b"\7")), default=0)
    assert longest < packed.SHORTEST + 2 * packed._STEP


@pytest.mark.parametrize("data", [b"", bytes(3 * packed.SHORTEST)])
def test_long_zeros_alone_are_not_stored(data: bytes) -> None:
    parts = Packed([data])
    assert b"".join(parts) == b"" and parts.extents == ()


@pytest.mark.parametrize("end", [0, 100, packed.SHORTEST - 1])
def test_without_long_zeros_all_is_stored_as_it_is(end: int) -> None:
    data = b"a" * 100 + bytes(packed.SHORTEST // 2) + b"b" + bytes(end)
    parts = Packed([data])
    assert b"".join(parts) == data and parts.extents == ()


def test_a_beginning_has_no_extents() -> None:
    parts = Packed([b"a" * 100, bytes(3 * packed.SHORTEST)])
    assert b"".join(parts) == b"a" * 100 + bytes(packed._STEP - 100) and parts.extents == ()


def write(path: Path, *parts: bytes) -> Path:
    """A bundle of one region of 128 MiB, which begins with these bytes."""
    capture = Capture(
        target="host", requirements=Requirements(memory=1 << 27), producer={}, tensors=(),
        regions=(RegionImage("state", 0, 1 << 27, lambda: parts),), functions=(), graphs=(),
    )  # fmt: skip
    write_bundle(path, capture, "w", {}, {})
    return path


@pytest.mark.parametrize("parts", [
    [bytes(64 << 20), b"end"], [b"a", bytes(64 << 20), b"end", bytes(2 << 20)], [bytes(1 << 20)],
])  # fmt: skip
def test_a_bundle_is_small_and_has_the_bytes(tmp_path: Path, parts: list[bytes]) -> None:
    data, path = b"".join(parts), write(tmp_path / "x.fdy", *parts)
    assert path.stat().st_size < 64 << 10
    with Bundle.open(path) as bundle:
        bundle.verify()
        (region,) = bundle.manifest.regions
        assert (region.section == -1) == (not any(data))
        read = bytearray(1 << 27)
        for part in bundle.initial(region):
            read[part.offset : part.offset + len(part.data)] = part.data
    assert read[: len(data)] == data and not any(read[len(data) :])


def test_earlier_readers_know_all_fields_of_a_region_without_long_zeros(tmp_path: Path) -> None:
    with Bundle.open(write(tmp_path / "x.fdy", b"a", bytes(1000), b"b")) as bundle:
        manifest = next(i for i, s in enumerate(bundle.sections) if s.name == "manifest")
        (region,) = msgspec.msgpack.decode(bundle.raw(manifest))["regions"]
    assert region["section"] == 0 and "extents" not in region


def test_the_same_bytes_elsewhere_are_another_region(tmp_path: Path) -> None:
    near, far = bytes(2 << 20), bytes(3 << 20)
    for name, parts in {"x": (near, b"end"), "y": (far, b"end"), "z": (near[1:], b"\0end")}.items():
        write(tmp_path / name, *parts)
    with (
        Bundle.open(tmp_path / "x") as x,
        Bundle.open(tmp_path / "y") as y,
        Bundle.open(tmp_path / "z") as z,
    ):
        check_alike("state", x, z)
        with pytest.raises(UsageError, match="stored bytes"):
            check_alike("state", x, y)
        assert not differences(x, z)
        assert [found["name"] for found in differences(x, y)] == ["state"]
