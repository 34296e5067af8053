"""Several receive antennas: combined as LMMSE combines them, in files and messages, in reports."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sigmf
import zmq
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from foundryrt.errors import FoundryError, UsageError
from otfs_pipeline import send
from otfs_pipeline.frames import opening, shared, source, wire, writing, zeromq
from otfs_pipeline.frames.condition import Conditions
from otfs_pipeline.frames.samples import by_antenna, encode
from otfs_pipeline.link import banded, equalize, frame, reference, transmit
from otfs_pipeline.link.channel import Taps
from otfs_pipeline.link.estimate import Estimate, whiten
from otfs_pipeline.link.profile import VEHICULAR_A
from otfs_pipeline.link.zak import zak
from otfs_pipeline.settings import Settings
from otfs_pipeline.study.linklevel import unit_noise

LINK = Settings(grid="31x37", nu_p=30e3, guard=9, antennas=2, max_taps=64, iterations=120)
SMALL = Settings(grid="64x32", antennas=2)


def taps_of(link: Settings, rng: np.random.Generator) -> Taps:
    """Taps within the strip: what few are left out here is no matter of the combination."""
    taps = VEHICULAR_A.taps(rng, link)
    inside = (link.first_tap <= taps.delay) & (taps.delay <= link.guard_bins // 2)
    return Taps(taps.value[inside], taps.delay[inside], taps.doppler[inside])


def received(
    link: Settings, channels: list[Taps], variances: list[float], rng: np.random.Generator
) -> np.ndarray:
    sent = transmit.transmit(transmit.payload(1, 0, link), link)
    clean = banded.apply_samples(sent, banded.antenna_bands(channels, link.q))
    return clean + np.sqrt(np.array(variances))[:, None] * unit_noise(rng, clean.shape)


def dense(
    samples: np.ndarray, link: Settings, channels: list[Taps], variances: list[float]
) -> tuple[np.ndarray, float]:
    """(Σ HᴴH/σ² + I)⁻¹ Σ Hᴴy/σ² on the data bins, and its bias, by a matrix inverse."""
    data = reference.time_mask(link) > 0
    gram, right = np.zeros((data.sum(),) * 2, complex), np.zeros(data.sum(), complex)
    for y, taps, variance in zip(samples, channels, variances, strict=True):
        h = equalize.dense_time(taps, link.q)
        pilot = reference.pilot_response(link, banded.bands(taps, link.q))
        gram += h[:, data].conj().T @ h[:, data] / variance
        right += h[:, data].conj().T @ (y - pilot) / variance
    inverse = np.linalg.inv(gram + np.eye(len(right)))
    x = np.zeros(link.q, complex)
    x[data] = inverse @ right
    mu = 1 - float(np.trace(inverse).real) / len(right)
    return frame.extract(zak(x, link.m, link.n), link), mu


# Without shrinking: each example inverts matrices.
@settings(max_examples=4, deadline=None, phases=[Phase.generate])
@given(st.integers(0, 2**31), st.sampled_from([2, 4]), st.floats(0.05, 20))
def test_antennas_are_combined_as_lmmse_combines_them(
    seed: int, antennas: int, louder: float
) -> None:
    link, rng = replace(LINK, antennas=antennas), np.random.default_rng(seed)
    channels = [taps_of(link, rng) for _ in range(antennas)]
    variances = [0.03 * louder**i for i in range(antennas)]
    samples = received(link, channels, variances, rng)
    known = [Estimate(t, v) for t, v in zip(channels, variances, strict=True)]
    exact, mu = dense(samples, link, channels, variances)
    for form in ({}, {"periods": True}, {"preconditioned": True}):
        got = reference.receive(samples, link, known, **form)
        # |H(t,f)|² stands for the eigenvalues of the Gram matrix: as of one antenna.
        assert got.mu == pytest.approx(mu, rel=0.02)
        np.testing.assert_allclose(got.symbols * got.mu, exact, atol=1e-4)


def test_one_antenna_of_two_dimensions_is_one_of_one() -> None:
    link = replace(SMALL, antennas=1)
    samples = source.simulate(link, 20.0, 1, 0).samples
    assert samples.shape == (link.q,)
    for form in ({}, {"periods": True}, {"preconditioned": True}):
        flat, row = (reference.receive(x, link, **form) for x in (samples, samples[None]))
        np.testing.assert_array_equal(flat.llr, row.llr)


def test_the_order_of_antennas_is_no_matter_and_a_dead_one_costs_nothing() -> None:
    link = replace(SMALL, antennas=4)
    samples = source.simulate(link, 15.0, 1, 0).samples.astype(np.complex128)
    got = reference.receive(samples, link)
    turned = reference.receive(samples[::-1], link)
    np.testing.assert_allclose(turned.symbols, got.symbols, atol=1e-9)
    alive = reference.receive(samples[:2], link)
    samples[2:] = 0
    np.testing.assert_allclose(reference.receive(samples, link).llr, alive.llr, atol=1e-9)


def test_copies_of_an_antenna_count_as_one_with_less_noise() -> None:
    link, rng = replace(LINK, antennas=1), np.random.default_rng(5)
    taps = taps_of(link, rng)
    samples = received(link, [taps], [0.1], rng)
    one = reference.receive(samples, link, [Estimate(taps, 0.1 / 4)])
    four = reference.receive(np.tile(samples, (4, 1)), link, [Estimate(taps, 0.1)] * 4)
    np.testing.assert_allclose(four.symbols, one.symbols, atol=1e-6)
    assert four.mu == pytest.approx(one.mu)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=4))
def test_whitened_noise_is_the_smallest_there_is(variances: list[float]) -> None:
    least, scale = whiten(variances)
    positive = [v for v in variances if v > 0]
    assert least == (min(positive) if positive else 0)
    for variance, factor in zip(variances, scale, strict=True):
        assert factor**2 * variance == pytest.approx(least if variance else 0)
    assert np.isnan(whiten([*variances, np.nan])[0])


def test_antennas_fade_independently_with_noise_of_their_own() -> None:
    link = replace(SMALL, antennas=4, gain_model="rayleigh")
    got = source.simulate(link, 100.0, 3, 0)
    assert got.samples.shape == (4, link.q) and got.samples.flags.c_contiguous
    across = np.abs(np.corrcoef(got.samples))
    assert (across[~np.eye(4, dtype=bool)] < 0.9).all()
    noisy = source.simulate(link, -100.0, 3, 0)
    assert (np.abs(np.corrcoef(noisy.samples))[~np.eye(4, dtype=bool)] < 0.1).all()


def test_more_antennas_have_fewer_bit_errors() -> None:
    wrong = []
    for antennas in (1, 2, 4):
        link = replace(SMALL, antennas=antennas)
        frames = list(source.synthetic(link, 14.0, 7, 6))
        decided = [reference.receive(f.samples, link).bits.ravel() for f in frames]
        wrong.append(np.mean([np.mean(b != f.bits) for b, f in zip(decided, frames, strict=True)]))
    assert wrong[0] > 2 * wrong[1] > 8 * wrong[2]


@pytest.mark.parametrize("antennas", [0, 3, 8, -1])
def test_other_numbers_of_antennas_are_refused(antennas: int) -> None:
    with pytest.raises(UsageError, match=f"antennas {antennas}: use 1 or 2 or 4"):
        Settings(antennas=antennas)


@pytest.mark.parametrize("datatype", ["cf32_le", "ci16_le"])
def test_a_recordings_channels_are_antennas(tmp_path: Path, datatype: str) -> None:
    frames = list(source.synthetic(SMALL, 20.0, 7, 3))
    path = str(tmp_path / "two")
    writing.write_recording(path, frames, SMALL, 7, datatype)
    opened = sigmf.fromfile(f"{path}.sigmf-meta")
    assert opened.num_channels == 2
    theirs = opened.read_samples()
    ours = opening.open_recording(f"{path}.sigmf-meta", "", "", SMALL)
    assert ours.count(SMALL) == 3 and ours.captures()[0]["samples"] == 3 * SMALL.q
    for index, (got, sent) in enumerate(zip(ours.frames(SMALL), frames, strict=True)):
        assert got.samples.shape == (2, SMALL.q) and got.samples.flags.c_contiguous
        np.testing.assert_allclose(
            got.samples, theirs[index * SMALL.q :][: SMALL.q].T, rtol=1e-6, atol=1e-9
        )
        if datatype == "cf32_le":
            np.testing.assert_array_equal(got.samples, sent.samples)
        np.testing.assert_array_equal(got.bits, sent.bits)


def test_a_raw_file_has_as_many_channels_as_the_bundle_antennas(tmp_path: Path) -> None:
    frames = list(source.synthetic(SMALL, 20.0, 7, 2))
    data = b"".join(encode(f.samples.T.reshape(-1), "cf32_le") for f in frames)
    path = tmp_path / "two.iq"
    path.write_bytes(data + bytes(8 * 5))
    got = list(opening.open_recording(str(path), "", "cf32_le", SMALL).frames(SMALL))
    np.testing.assert_array_equal(got[1].samples, frames[1].samples)
    # Five samples are no frame of two antennas.
    assert [f.samples.shape for f in got] == [(2, SMALL.q), (2, SMALL.q), (5,)]


def test_channels_that_are_not_the_antennas_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "two")
    writing.write_recording(path, [source.simulate(SMALL, 20.0, 7, 0)], SMALL, 7)
    for antennas in (1, 4):
        link = replace(SMALL, antennas=antennas)
        with pytest.raises(FoundryError, match=f"num_channels 2: the bundle receives {antennas}"):
            opening.open_recording(f"{path}.sigmf-meta", "", "", link)
    meta = tmp_path / "two.sigmf-meta"
    text = json.loads(meta.read_text())
    text["global"]["core:num_channels"] = 0
    meta.write_text(json.dumps(text))
    with pytest.raises(FoundryError, match="num_channels 0: no SigMF"):
        opening.open_recording(str(meta), "", "", SMALL)


def test_a_message_has_antenna_after_antenna() -> None:
    sent = source.simulate(SMALL, 20.0, 7, 0)
    data = encode(sent.samples, "cf32_le")
    header = wire.Header(0, "cf32_le", sent.samples.size, 7, 0)
    assert len(data) == header.bytes
    got = wire.frame(header, data, SMALL, 1.0)
    np.testing.assert_array_equal(got.samples, sent.samples)
    np.testing.assert_array_equal(got.bits, sent.bits)


@pytest.mark.parametrize("kind", ["zmq", "shm"])
def test_messages_with_uneven_antennas_are_malformed(kind: str, tmp_path: Path) -> None:
    """Not taken for interleaved samples of a waveform."""
    place = f"ipc://{tmp_path}/link" if kind == "zmq" else str(tmp_path / "ring")
    counts, receive = wire.Counts(), (zeromq if kind == "zmq" else shared).receive
    with ThreadPoolExecutor(1) as thread:
        received = thread.submit(
            lambda: list(receive(place, SMALL, counts, 10.0, threading.Event()))
        )
        link = (
            zeromq.Sender(place, 10.0) if kind == "zmq" else shared.Sender(place, 800, 4, True, 10)
        )
        for sequence, size in enumerate((100, 99, 60)):
            samples = np.arange(size).astype(np.complex64)
            link.send(wire.Header(sequence, "cf32_le", size), encode(samples, "cf32_le"))
        link.finish(3)
        pieces = [one.samples for one in received.result(20)]
        link.close()
    assert [piece.shape for piece in pieces] == [(2, 50), (2, 30)]
    assert (counts.malformed, counts.lost) == (1, 1)
    assert counts.reason == "99 samples are not as many of each of 2 antennas"


def test_a_sender_plays_recordings_of_several_channels(tmp_path: Path) -> None:
    frames = list(source.synthetic(SMALL, 20.0, 7, 2))
    path = str(tmp_path / "two")
    writing.write_recording(path, frames, SMALL, 7)
    for sent, (header, data) in zip(
        frames, send._recorded(f"{path}.sigmf-meta", SMALL), strict=True
    ):
        assert len(data) == header.bytes
        got = wire.frame(header, data, SMALL, 1.0)
        np.testing.assert_array_equal(got.samples, sent.samples)
        np.testing.assert_array_equal(got.bits, sent.bits)


def test_bare_samples_are_interleaved(tmp_path: Path) -> None:
    frames = list(source.synthetic(SMALL, 20.0, 7, 2))
    data = b"".join(encode(f.samples.T.reshape(-1), "cf32_le") for f in frames)
    place, stop = f"ipc://{tmp_path}/bare", threading.Event()
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.bind(place)
        receiver = zeromq.receive_bare(place, "push", SMALL, wire.Counts(), 0.6, stop)
        # A PUSH waits for a peer.
        with ThreadPoolExecutor(1) as thread:
            received = thread.submit(list, receiver)
            for first in range(0, len(data), 40_001):
                socket.send(data[first : first + 40_001])
            for got, sent in zip(received.result(60), frames, strict=True):
                np.testing.assert_array_equal(got.samples, sent.samples)


@given(st.integers(0, 40), st.sampled_from([1, 2, 4]), st.booleans())
def test_samples_by_antenna(count: int, antennas: int, interleaved: bool) -> None:
    samples = np.arange(count).astype(np.complex64)
    got = by_antenna(samples, antennas, interleaved)
    if antennas == 1 or count % antennas:
        assert got is samples
        return
    assert got.shape == (antennas, count // antennas) and got.flags.c_contiguous
    for antenna, row in enumerate(got):
        part = slice(antenna, None, antennas)
        whole = slice(antenna * row.size, (antenna + 1) * row.size)
        np.testing.assert_array_equal(row, samples[part if interleaved else whole])


def test_a_frames_line_has_a_list_of_the_antennas() -> None:
    conditions = Conditions(SMALL)
    sent = (SMALL.pilot_amplitude**2 + frame.data_symbols(SMALL)) / SMALL.q
    outputs = {"variance": 0.02, "evm": 0.1, "noise_variance": [0.01, 0.0], "taps": [5, 0],
               "power": [0.5 * sent + 0.01, 0.0], "peak": [3.0, 0.0], "clipped": [1.0, 9.0],
               "burst": [2.0, 0.0], "missing": [0.0, 2048.0]}  # fmt: skip

    def taken(found: dict[str, Any]) -> dict[str, Any]:
        arrays = {name: np.array(value) for name, value in found.items()}
        nothing = source.Frame(np.zeros(0), np.zeros(0))
        return json.loads(json.dumps(conditions.take(nothing, arrays, {})))

    line = taken(outputs)
    assert line["snr_db"] == pytest.approx(10 * np.log10(0.5 / 0.01), abs=1e-4)
    assert line["taps"] == [5, 0] and line["missing_samples"] == [0, 2048]
    assert line["channel_gain_db"] == [pytest.approx(10 * np.log10(0.5), abs=1e-4), None]
    assert line["flags"] == ["clipped", "missing"]
    both = outputs | {"noise_variance": [0.01, 0.01], "power": [0.5 * sent + 0.01] * 2}
    line = taken(both)
    assert line["snr_db"] == pytest.approx(10 * np.log10(2 * 0.5 / 0.01), abs=1e-4)
