"""Samples of a waveform as they come: in every format, at once or in pieces, broken or not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otfs_pipeline.frames.intake import take, undecoded
from otfs_pipeline.frames.raw import Raw
from otfs_pipeline.frames.samples import DATATYPES, decode, encode
from otfs_pipeline.frames.slots import slot_memory
from otfs_pipeline.frames.source import UNKNOWN, Frame
from otfs_pipeline.frames.wire import Counts
from otfs_pipeline.front.buffer import PIECE
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


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 30_000), st.integers(1, 900), st.lists(st.integers(1, 49_000), max_size=6))
def test_broken_samples_cost_the_same_slots_in_the_graph(
    at: int, count: int, cuts: list[int]
) -> None:
    """As of the front end in the driver, which the graph's slots are compared with."""
    samples, _ = stream()
    broken = samples.copy()
    broken[at : at + count] = np.nan
    memory = slot_memory(LINK, 4, lambda size: np.zeros(size, np.uint8))
    raws = Raw(LINK, 0.0, memory), Raw(LINK, 0.0)
    shown = list[np.ndarray]()
    raws[0].watch = lambda piece: shown.append(piece.copy())
    whole = np.split(broken, sorted(cuts))
    found = [list(raw.frames([Frame(piece, UNKNOWN) for piece in whole], Counts())) for raw in raws]
    slots, damaged = len(found[0]), raws[0].report()["damaged"]
    # The preamble at the end is a slot, too, of which the graph says that it has no frame.
    assert (slots - 1, damaged) == (len(found[1]), raws[1].report()["damaged"])
    assert all(np.isfinite(one.samples).all() for one in found[0])
    np.testing.assert_array_equal(np.concatenate(shown), np.where(np.isnan(broken), 0, broken))


def test_long_pieces_are_taken_in_parts() -> None:
    samples = np.zeros(3 * PIECE, np.complex64)
    sizes = list[int]()
    raw = Raw(LINK, 0.0)
    raw.watch = lambda piece: sizes.append(piece.size)
    assert list(raw.frames([Frame(samples, UNKNOWN)], Counts())) == []
    assert sum(sizes) == samples.size and max(sizes) <= PIECE
