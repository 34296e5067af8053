"""Samples of a waveform as they come: in every format, at once or in pieces, broken or not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otfs_pipeline.frames.intake import take, undecoded
from otfs_pipeline.frames.raw import Raw
from otfs_pipeline.frames.samples import DATATYPES, decode, encode
from otfs_pipeline.frames.slots import SlotFrame, slot_memory
from otfs_pipeline.frames.source import UNKNOWN, Frame
from otfs_pipeline.frames.wire import Counts
from otfs_pipeline.front import buffer as buffers
from otfs_pipeline.front.buffer import PIECE, Buffer
from otfs_pipeline.front.signature import waveform_span
from otfs_pipeline.front.track import Tracker
from otfs_pipeline.settings import Settings
from tests.unit.test_otfs_raw import LINK, stream


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_format_is_taken_as_it_is_decoded(datatype: str) -> None:
    rng = np.random.default_rng(2)
    samples = 0.2 * rng.standard_normal((77, 2)).astype(np.float32).view(np.complex64)[:, 0]
    data = encode(samples, datatype) + b"\1"  # And a part of one more.
    given, to = undecoded(data, datatype), np.full(77, np.nan, np.complex64)
    assert len(given) == 77 and take(given, to) == []
    np.testing.assert_array_equal(to, decode(data, datatype))


@given(
    st.lists(st.tuples(st.integers(0, 199), st.integers(1, 30)), max_size=5),
    st.sampled_from([np.nan, np.inf, -np.inf, 1e15, 0.8e15 * (1 + 1j), 1j * np.inf]),
    st.booleans(),
)
def test_what_is_no_number_is_zero_and_named(
    runs: list[tuple[int, int]], bad: complex, streamed: bool
) -> None:
    samples = np.full(200, 0.9e15, np.complex64)  # Large, but not too large.
    broken = np.zeros(200, bool)
    for begin, length in runs:
        broken[begin : begin + length] = True
    samples[broken] = bad
    to = np.empty_like(samples)
    found = take(samples, to, streamed)
    np.testing.assert_array_equal(to, np.where(broken, 0, np.complex64(0.9e15)))
    named = np.zeros(200, bool)
    for begin, end in found:
        assert not named[max(begin - 1, 0) : end].any()
        named[begin:end] = True
    np.testing.assert_array_equal(named, broken)


@pytest.mark.parametrize("rate", [2, 3])
@pytest.mark.parametrize("datatype", ["ci16_le", "ci16_be", "cu8"])
def test_frames_are_those_of_decoded_samples(datatype: str, rate: int) -> None:
    data = encode(stream(rate)[0], datatype, 0.05)
    found = [
        list(Raw(LINK, rate * LINK.bandwidth).frames([Frame(given, UNKNOWN)], Counts()))
        for given in (undecoded(data, datatype), decode(data, datatype))
    ]
    assert len(found[0]) == len(found[1]) == 4
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one.samples, two.samples)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 40_000), st.integers(1, 900), st.lists(st.integers(1, 49_000), max_size=6))
def test_slots_with_broken_samples_are_lost_and_no_others(
    at: int, count: int, cuts: list[int]
) -> None:
    broken = stream()[0].copy()
    broken[at : at + count] = np.nan
    clean = np.where(np.isnan(broken), 0, broken)
    memory = slot_memory(LINK, 4, lambda size: np.zeros(size, np.uint8))
    raw, shown = Raw(LINK, 0.0, memory), list[np.ndarray]()
    raw.watch = lambda piece: shown.append(piece.copy())
    pieces = [Frame(piece, UNKNOWN) for piece in np.split(broken, sorted(cuts))]
    found = list(raw.frames(pieces, Counts()))
    np.testing.assert_array_equal(np.concatenate(shown), clean)
    tracker = Tracker(LINK, waveform_span(LINK))
    tracker.lose(at, at + count + 1)
    bursts = [
        replace(burst, samples=burst.samples.copy())
        for some in (tracker.push(clean), tracker.finish())
        for burst in some
    ]
    kept = [burst for burst in bursts if not burst.lost]
    assert raw.report()["damaged"] == len(bursts) - len(kept)
    for frame, burst in zip(found, kept, strict=True):
        assert isinstance(frame, SlotFrame)
        assert (frame.start, frame.burst.doubtful) == (burst.start, burst.doubtful)
        np.testing.assert_array_equal(frame.samples, burst.samples)


@pytest.mark.parametrize(("rate", "in_graph"), [(2, True), (2, False), (3, True)])
def test_only_what_the_device_reads_goes_past_the_caches(
    rate: int, in_graph: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = set[bool]()

    def taken(samples: np.ndarray, to: np.ndarray, streamed: bool, threads: int) -> list[list[int]]:
        asked.add(streamed)
        return take(samples, to, streamed, threads)

    monkeypatch.setattr("otfs_pipeline.frames.raw.take", taken)
    memory = slot_memory(LINK, 4, lambda size: np.zeros(size, np.uint8)) if in_graph else None
    raw = Raw(LINK, rate * LINK.bandwidth, memory)
    assert len(list(raw.frames([Frame(stream(rate)[0], UNKNOWN)], Counts()))) >= 4
    assert asked == {in_graph and rate == 2}


def test_long_pieces_are_taken_in_parts() -> None:
    samples = np.zeros(3 * PIECE, np.complex64)
    sizes = list[int]()
    raw = Raw(Settings(grid="1024x32"), 0.0)  # A slot is longer than that.
    raw.watch = lambda piece: sizes.append(piece.size)
    assert list(raw.frames([Frame(samples, UNKNOWN)], Counts())) == []
    assert sum(sizes) == samples.size and max(sizes) <= PIECE


def test_a_buffer_goes_on_in_another_array_while_little_is_held() -> None:
    taken = list[np.ndarray]()

    def array() -> np.ndarray:
        taken.append(np.zeros(100, np.complex64))
        return taken[-1]

    buffer = Buffer(100, array)
    while buffer.end < 90:
        space = buffer.space()[: 90 - buffer.end]
        space[:] = np.arange(buffer.end, buffer.end + space.size)
        buffer.append(space.size)
    buffer.drop(80, 20)
    assert len(taken) == 1 and buffer.space().size == 10
    before = buffer.view(80, 90)
    buffer.drop(85, 20)
    assert len(taken) == 2 and buffer.space().size == 95
    np.testing.assert_array_equal(buffer.view(85, 90), np.arange(85, 90))
    np.testing.assert_array_equal(before, np.arange(80, 90))


def test_a_buffer_shows_all_that_is_put_into_its_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "_SHOWN", 7)
    arrays, shown, sizes = list[np.ndarray](), list[np.ndarray](), list[int]()

    def array() -> np.ndarray:
        arrays.append(np.zeros(40, np.complex64))
        shown.append(np.zeros(40, np.complex64))
        return arrays[-1]

    def put(samples: np.ndarray) -> None:
        begin = (samples.ctypes.data - arrays[-1].ctypes.data) // samples.itemsize
        shown[-1][begin : begin + samples.size] = samples
        sizes.append(samples.size)

    buffer = Buffer((40,), array, put)
    while buffer.end < 60:
        space = buffer.space()[:3]
        space[:] = 1 + buffer.end + np.arange(space.size)
        buffer.append(space.size)
        if buffer.end == 6:
            assert not sizes
        buffer.drop(buffer.end - 5, 10)
    for _ in range(2):
        buffer.show()
        np.testing.assert_array_equal(shown[-1], arrays[-1])
    # Of an array that is left, but for its end, which goes on in the next.
    assert len(arrays) == 2 and (arrays[1][:5] == arrays[0][arrays[0] > 0][-5:]).all()
    np.testing.assert_array_equal(shown[0][:28], arrays[0][:28])
    assert max(sizes) <= 9 and sum(sizes) <= 65
