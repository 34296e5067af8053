"""What the live page shows, each part against another implementation or its own definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from otfs_pipeline.frames import source
from otfs_pipeline.link import prefix
from otfs_pipeline.link.channel import Paths
from otfs_pipeline.link.estimate import read_pilot
from otfs_pipeline.link.frame import pilot_grid
from otfs_pipeline.link.zak import inverse_zak, zak
from otfs_pipeline.live import channel, history, spectrum
from otfs_pipeline.live.latency import Latencies
from otfs_pipeline.live.metrics import Metrics
from otfs_pipeline.live.state import State
from otfs_pipeline.live.watch import SYMBOLS, Watch
from otfs_pipeline.settings import Settings

LINK = Settings(grid="64x32")
ENTRY = {
    "frame": 0, "snr_db": 20.0, "equalized_snr_db": 15.0, "evm_percent": 12.0,
    "noise_variance": 0.01, "taps": 9, "bit_errors": 3, "flags": [],
}  # fmt: skip


@pytest.mark.parametrize("size", [2048, 5000, 40_000])
def test_the_density_is_welchs(size: int) -> None:
    rng = np.random.default_rng(1)
    noise = rng.standard_normal(size) + 1j * rng.standard_normal(size)
    samples = (noise + 3 * np.exp(2j * np.pi * 0.2 * np.arange(size))).astype(np.complex64)
    length = spectrum.segment_length(size)
    parts = spectrum.segments(samples, length, 10**6)
    whole = samples[: size // length * length]
    got = spectrum.density(whole.reshape(-1, length), 1e6)
    _, expected = scipy.signal.welch(
        whole.astype(complex), 1e6, "hann", length, 0, detrend=False, return_onesided=False
    )
    np.testing.assert_allclose(got, np.fft.fftshift(expected), rtol=1e-5)
    # The segments come from the whole frame, its first and last samples too.
    assert parts.shape == (size // length, length)
    assert (parts[0, 0], parts[-1, -1]) == (samples[0], samples[-1])
    assert got.sum() * 1e6 / length == pytest.approx(np.mean(np.abs(samples) ** 2), rel=0.05)


@pytest.mark.parametrize(
    "link",
    [
        LINK,
        Settings(grid="31x37", nu_p=30e3),
        Settings(grid="256x32", pulse="sinc"),
        Settings(grid="256x32", pilot="spread"),
    ],
)
def test_the_channel_is_what_the_pilot_shows(link: Settings) -> None:
    samples = source.simulate(link, 20.0, 3, 0).samples
    window = read_pilot(zak(samples.astype(complex), link.m, link.n), link, link.pilot_bin)
    expected = np.abs(window[:, : 2 * link.doppler_range + 1].T) ** 2
    got = channel.gains(channel.strip(samples, link), link)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-9)
    floor = channel.threshold(np.array([0.01]), link)
    assert floor == pytest.approx(9 * 0.01 / link.pilot_amplitude**2)


def test_with_a_prefix_the_channel_is_shown_between_the_bins() -> None:
    link = Settings(grid="64x37", waveform="cp")
    # Five half bins.
    paths = Paths(np.array([0.5j]), np.zeros(1), np.array([2.5 / link.frame_seconds]))
    received = prefix.through(inverse_zak(pilot_grid(link)), paths, link)
    got = channel.gains(channel.strip(received, link), link)
    strongest = np.unravel_index(np.argmax(got), got.shape)
    assert strongest == (link.doppler_range + 5, -link.first_tap)
    assert got[strongest] == pytest.approx(0.25, rel=1e-3)


@pytest.mark.parametrize("antennas", [2, 4])
def test_of_several_antennas_each_is_shown_as_if_alone(antennas: int) -> None:
    link = replace(LINK, antennas=antennas)
    noise = [0.01 * 4**antenna for antenna in range(antennas)]
    sent = source.simulate(link, 20.0, 3, 0)

    def shown(link: Settings, samples: np.ndarray, noise: Any) -> dict[str, Any]:
        state = State(link, 2e-3)
        state.watch.want()
        frame = replace(sent, samples=samples)
        symbols = np.ones(10, np.complex64)
        state.watch.take(frame, {"symbols": symbols}, ENTRY | {"noise_variance": noise})
        return state.snapshot(False)

    all_shown = shown(link, sent.samples, noise)
    alone = [shown(LINK, sent.samples[i], noise[i]) for i in range(antennas)]
    for plot in ("channel", "spectrum"):
        got = [np.frombuffer(packed, "<f4") for packed in all_shown[plot]["db"]]
        expected = [np.frombuffer(one[plot]["db"][0], "<f4") for one in alone]
        np.testing.assert_allclose(got, expected, atol=1e-3)
    thresholds = all_shown["channel"]["threshold_db"]
    assert thresholds == [one["channel"]["threshold_db"][0] for one in alone]
    assert np.diff(thresholds) == pytest.approx(20 * np.log10(2))


@given(st.integers(1, 40), st.integers(1, 20))
def test_a_narrower_channel_keeps_every_peak(columns: int, most: int) -> None:
    gains = np.random.default_rng(columns).random((3, columns))
    got, each = channel.narrowed(gains, most)
    assert got.shape[1] <= most
    for column in range(columns):
        assert (got[:, column // each] >= gains[:, column]).all()
    assert (got.max(axis=1) == gains.max(axis=1)).all()


TIMES = st.lists(st.one_of(st.floats(0, 100), st.floats(0, 1e6)), min_size=1, max_size=60)


@given(TIMES)
def test_a_history_loses_no_frame_however_long_the_run(times: list[float]) -> None:
    kept = history.History()
    for at in sorted(times):
        kept.take(at, ENTRY | {"snr_db": at})
    assert len(kept.intervals) <= history.MOST
    assert sum(one.frames for one in kept.intervals) == len(times)
    for index, one in enumerate(kept.intervals):
        inside = [at for at in times if int(at / kept.seconds) == index]
        assert one.frames == len(inside)
        if inside:
            assert (one.snr_least, one.snr_most) == (min(inside), max(inside))
    drawn = kept.columns(1000, 2000)
    assert all(rate == pytest.approx(3 / 1000) for rate in drawn["ber"])
    assert all(value is None for value in drawn["uncoded"])


def test_an_interval_without_known_payload_has_no_bit_error_rate() -> None:
    kept = history.History()
    kept.take(0.0, ENTRY | {"bit_errors": None, "snr_db": None})
    kept.take(0.3, ENTRY | {"bit_errors": 0, "uncoded_bit_errors": 8, "crc": False})
    drawn = kept.columns(100, 200)
    assert drawn["ber"] == [None, 0] and drawn["snr"] == [None, 20.0]
    assert (drawn["uncoded"], drawn["fer"]) == ([None, 8 / 200], [0, 1])


@given(st.lists(st.floats(1e-3, 9e4), min_size=1, max_size=300), st.integers(2, 80))
def test_latencies_are_as_numpy_orders_them(values: list[float], most: int) -> None:
    kept = Latencies(2.0)
    kept.take(values[:7])
    kept.take(values[7:])
    for percent in (50, 99, 99.9, 100):
        exact = np.percentile(values, percent, method="inverted_cdf")
        assert exact * (1 - 1e-9) <= kept.percentile(percent) <= exact * 1.0058
    edges, counts = kept.bars(most)
    assert len(counts) <= most and len(edges) == len(counts) + 1
    assert sum(counts) == kept.frames == len(values)
    assert edges[0] <= min(values) * 1.001 and max(values) <= edges[-1] * 1.001
    assert kept.missed == sum(value > 2 for value in values)


def test_without_latencies_there_is_nothing_to_show() -> None:
    kept = Latencies(2.0)
    kept.take([])
    assert kept.percentile(50) is None and kept.bars(10) == ([], [])


def test_a_frame_is_sampled_when_it_is_wanted() -> None:
    frame = source.simulate(LINK, 20.0, 3, 0)
    symbols = np.arange(10_000).astype(np.complex64)
    watch = Watch(LINK)
    watch.take(frame, {}, ENTRY)
    assert watch.sample is None
    watch.want()
    watch.take(frame, {"symbols": symbols}, ENTRY | {"frame": 1})
    watch.take(frame, {}, ENTRY)
    sample = watch.sample
    assert sample is not None and sample.entry["frame"] == 1
    assert sample.symbols.size == SYMBOLS and {0, 9999} <= set(sample.symbols.real)
    assert len(set(sample.symbols.real.astype(int) % LINK.n)) == LINK.n
    copies = (sample.symbols, sample.strip, sample.segments)
    assert not any(np.shares_memory(one, two) for one in copies for two in (symbols, frame.samples))
    assert [watch.entries.get()[1]["frame"] for _ in range(3)] == [0, 1, 0]


@given(st.lists(st.integers(0, 9000), max_size=8))
def test_a_waveform_is_the_same_in_any_pieces(cuts: list[int]) -> None:
    samples = np.arange(20_000).astype(np.complex64)
    watch = Watch(LINK)
    watch.show(samples)
    assert watch.waveform is None
    for offset in (0, 1):
        watch.want()
        for piece in np.split(samples + offset, sorted(cuts)):
            watch.show(piece)
        assert watch.waveform is not None
        expected = samples[: watch.waveform.size] + offset
        np.testing.assert_array_equal(watch.waveform.ravel(), expected)


def values(page: bytes) -> dict[tuple[str, str], float]:
    return {
        (sample.name, "".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def test_prometheus_reads_what_was_counted() -> None:
    losses: dict[str, int] = {"dropped": 2, "lost": 0}
    metrics = Metrics(lambda: losses, 2e-3)
    assert ("otfs_snr_db", "") not in values(metrics.page())
    entries: list[dict[str, Any]] = [
        ENTRY,
        ENTRY | {"flags": ["burst", "crc"], "bit_errors": None, "block_errors": 2},
        ENTRY | {"snr_db": 17.0, "evm_percent": 8.0, "carrier_hz": -5.0, "timing_us": 0.5},
    ]
    for entry in entries:
        metrics.take(entry, 1000)
    metrics.took([0.1, 1.9, 2.1])
    losses["lost"] = 5
    got = values(metrics.page())
    expected = {
        "frames_total": 3, "frames_good_total": 2, "payload_bits_total": 2000,
        "payload_bit_errors_total": 6, "block_errors_total": 2, "deadline_misses_total": 1,
        "latency_seconds_count": 3, "latency_seconds_sum": 4.1e-3, "deadline_seconds": 2e-3,
        "snr_db": 17, "taps": 9, "evm_ratio": 0.08, "carrier_hz": -5, "timing_seconds": 5e-7,
    }  # fmt: skip
    assert {name: got["otfs_" + name, ""] for name in expected} == pytest.approx(expected)
    assert got["otfs_frames_flagged_total", "burst"] == got["otfs_frames_flagged_total", "crc"] == 1
    assert (got["otfs_frames_lost_total", "dropped"], got["otfs_frames_lost_total", "lost"]) == (
        2,
        5,
    )
    assert got["otfs_latency_seconds_bucket", "0.002"] == 2


def test_prometheus_reads_a_series_for_each_antenna() -> None:
    metrics = Metrics(dict, 2e-3)
    each = {"noise_variance": [0.01, 0.02], "taps": [9, 7], "burst_db": [None, 3.0]}
    metrics.take(ENTRY | each, 1000)
    expected = {
        ("otfs_noise_variance", "1"): 0.01, ("otfs_noise_variance", "2"): 0.02,
        ("otfs_taps", "1"): 9, ("otfs_taps", "2"): 7, ("otfs_burst_db", "2"): 3,
        ("otfs_snr_db", ""): 20,
    }  # fmt: skip
    names = {name for name, _ in expected}
    got = values(metrics.page())
    assert {key: value for key, value in got.items() if key[0] in names} == expected
    assert b'otfs_taps{antenna="2"}' in metrics.page()
    metrics.take(ENTRY, 1000)
    assert values(metrics.page())["otfs_taps", ""] == 9
