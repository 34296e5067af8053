"""Native code of the receiver's source: a sequence found, samples taken in; by numpy."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundryrt.errors import FoundryError
from foundryrt.native import zak_core
from foundryrt.native.front_core import FORMATS, Correlator, intake
from otfs_pipeline.frames.samples import DATATYPES, decode

LANES = [lanes for lanes in (4, 8, 16) if zak_core.lanes(lanes)]
DATATYPE = dict(zip(FORMATS, ("cf32_le", "ci16_le", "ci8", "cu8"), strict=True))


def draw(rng: np.random.Generator, size: int) -> np.ndarray:
    return rng.standard_normal((size, 2), np.float32).view(np.complex64)[:, 0]


def shares(sequence: np.ndarray, samples: np.ndarray) -> np.ndarray:
    wide = samples.astype(np.complex128)
    energy = np.correlate(np.abs(wide) ** 2, np.ones(sequence.size), "valid")
    found = np.abs(np.correlate(wide, sequence.astype(np.complex128), "valid")) ** 2
    return found / np.maximum(energy, 1e-6 * max(energy.max(), 1e-30))


@pytest.mark.parametrize("lanes", LANES)
@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 700),
    places=st.integers(1, 2000),
    planned=st.integers(1, 2000),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_sequence_is_found_where_its_share_is_largest(
    lanes: int, size: int, places: int, planned: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    sequence, samples = draw(rng, size), draw(rng, places + size - 1)
    sequence /= np.linalg.norm(sequence)
    samples[int(rng.integers(places)) :][:size] += 3 * np.sqrt(size) * sequence
    share = shares(sequence, samples)
    correlator = Correlator(sequence, planned, lanes)
    shared = Correlator(sequence, planned, lanes, threads=3, awake=3)
    for _ in range(2):  # What a search leaves does not matter to the next.
        found = correlator.find(samples, 0.0)
        assert found is not None and shared.find(samples, 0.0) == found
        assert share[found] == pytest.approx(share.max(), rel=1e-4)
    assert correlator.find(samples, 0.999 * share.max()) is not None
    assert correlator.find(samples, 1.001 * share.max()) is None


@pytest.mark.parametrize("lanes", LANES)
def test_threads_share_the_search_for_a_long_sequence(lanes: int) -> None:
    rng = np.random.default_rng(lanes)
    sequence = draw(rng, 20_000)
    sequence /= np.linalg.norm(sequence)
    alone = Correlator(sequence, 1024, lanes)
    shared = Correlator(sequence, 1024, lanes, awake=3)
    for at in (0, 511, 999):
        samples = draw(rng, 20_999)
        samples[at : at + sequence.size] += 50 * sequence
        share = shares(sequence, samples)
        # The same bits, however many take part.
        assert alone.find(samples, 0.0) == shared.find(samples, 0.0) == at == share.argmax()
        for threshold in (0.9999 * share.max(), 1.0001 * share.max()):
            assert alone.find(samples, threshold) == shared.find(samples, threshold)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("planned", [200, 8])
def test_what_has_no_energy_or_is_no_number_is_not_found(lanes: int, planned: int) -> None:
    rng = np.random.default_rng(1)
    sequence = draw(rng, 90) / np.float32(10)
    correlator = Correlator(sequence, planned, lanes)
    samples = np.zeros(289, np.complex64)
    assert correlator.find(samples, 0.01) is None
    # Rounding errors of strong samples are no sequence beside them.
    samples[:40] = 1e14 * draw(rng, 40)
    found = correlator.find(samples, 0.0)
    assert found is not None and found < 40
    # Nor is a weak one far from them.
    samples[150:240] = 1e5 * sequence
    assert correlator.find(samples, 0.0) == found
    samples[:] = np.nan
    assert correlator.find(samples, 0.0) is None
    assert correlator.find(np.ones(89, np.complex64), 0.0) is None  # No room for it.


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("component", FORMATS, ids=DATATYPE.values())
@settings(max_examples=25, deadline=None)
@given(size=st.integers(0, 150), first=st.integers(0, 17), seed=st.integers(0, 2**32 - 1))
def test_samples_are_taken_in_as_they_are_decoded(
    lanes: int, streamed: bool, component: np.dtype, size: int, first: int, seed: int
) -> None:
    data = np.random.default_rng(seed).bytes(2 * component.itemsize * size)
    expected = decode(data, DATATYPE[component])
    room = np.full(size + 40, 7, np.complex64)
    parts = np.frombuffer(data, component)
    good = intake(parts, 1e15, room[first : first + size], streamed, lanes)
    np.testing.assert_array_equal(room[first : first + size], expected)
    assert (room[:first] == 7).all() and (room[first + size :] == 7).all()
    assert good == bool((np.abs(expected.view(np.float32)) < 1e15).all())


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e15, -1e15])
def test_each_sample_that_is_too_large_is_seen(lanes: int, bad: float) -> None:
    parts = np.ones(90, np.float32)
    room = np.zeros(46, np.complex64)
    for at in range(90):
        parts[at] = bad
        assert not intake(parts, 1e15, room[1:], False, lanes), at
        parts[at] = 0.99e15
        assert intake(parts, 1e15, room[1:], False, lanes), at


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_share_what_is_taken_in(threads: int) -> None:
    rng = np.random.default_rng(threads)
    parts = rng.integers(-(1 << 15), 1 << 15, 2 * 60_001).astype(np.int16)
    expected = decode(parts.tobytes(), "ci16_le")

    def take_often(_: int) -> None:
        room = np.empty(60_003, np.complex64)
        for _ in range(100):
            room[:] = 7
            assert intake(parts, 1e15, room[1:-1], True, threads=threads)
            np.testing.assert_array_equal(room[1:-1], expected)
            assert room[0] == room[-1] == 7

    # Of several calls at once one has the threads.
    with ThreadPoolExecutor(3) as callers:
        list(callers.map(take_often, range(3)))
    # They have gone to sleep, and are woken.
    for at in (0, 8191, 8192, 70_000, 120_000):
        time.sleep(2e-3)
        floats = np.ones(2 * 60_001, np.float32)
        room = np.empty(60_001, np.complex64)
        assert intake(floats, 1e15, room, threads=threads)
        floats[at] = np.inf
        assert not intake(floats, 1e15, room, threads=threads)


def test_lanes_that_there_are_none_of() -> None:
    with pytest.raises(FoundryError, match="3 lanes"):
        Correlator(np.ones(4, np.complex64), 5, 3)
    with pytest.raises(FoundryError, match="3 lanes"):
        intake(np.ones(4, np.float32), 1.0, np.empty(2, np.complex64), False, 3)


def test_components_are_those_of_the_datatypes() -> None:
    assert [DATATYPES[name] for name in DATATYPE.values()] == list(FORMATS)
