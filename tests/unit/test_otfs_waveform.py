"""The waveform on the air: pulses, slots, preamble, modulator and its adjoint, impairments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otfs_pipeline.front.matched import MatchedFilter, rotation
from otfs_pipeline.link import banded, channel, prefix, transmit
from otfs_pipeline.link.profile import VEHICULAR_A
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform import preamble, pulse, slot
from otfs_pipeline.waveform.impair import Impairments, impaired
from otfs_pipeline.waveform.modulate import Modulator, overlap_add
from otfs_pipeline.waveform.simulate import Simulation

LINKS = {
    "one roll-off": Settings(grid="64x32"),
    "two roll-offs": Settings(grid="64x32", rolloff=0.1, doppler_rolloff=0.2),
    "odd": Settings(grid="31x37", nu_p=30e3, guard=9, max_taps=64),
    "sinc": Settings(grid="64x32", pulse="sinc"),
}
LINK = LINKS["one roll-off"]
links = pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)


@pytest.mark.parametrize("rolloff", [0.0, 0.1, 0.6, 1.0])
def test_squares_of_shifted_windows_sum_to_one(rolloff: float) -> None:
    x = np.arange(-64, 64) / 64
    total = sum(pulse.root_raised_cosine(x + shift, rolloff) ** 2 for shift in (-2, -1, 0, 1, 2))
    np.testing.assert_allclose(total, 1, atol=1e-12)


@links
def test_a_slot_is_as_short_as_its_neighbours_allow(link: Settings) -> None:
    place = slot.slot(link)
    periods, rest = divmod(place.chips, link.m)
    assert rest == 0 and place.seconds == pytest.approx(periods / link.nu_p)
    assert slot._leakage(link, periods) <= slot.LEAKAGE
    assert periods == link.n or slot._leakage(link, periods - 1) > slot.LEAKAGE
    assert periods >= (1 + link.rolloffs[1]) * link.n - 1


def error_db(got: np.ndarray, expected: np.ndarray) -> float:
    return float(20 * np.log10(np.linalg.norm(got - expected) / np.linalg.norm(expected)))


def matched(link: Settings, stream: np.ndarray, start: int, carrier: float = 0.0) -> np.ndarray:
    """A frame by the front end's filter, with silence around the stream."""
    margin = 4 * link.m
    samples = np.pad(stream, (margin, 4 * link.q)).astype(np.complex64)
    return MatchedFilter(link).frame(samples, start + margin, carrier)


@links
@pytest.mark.parametrize("oversampling", [2, 3])
def test_the_matched_filter_gives_the_frames_back(link: Settings, oversampling: int) -> None:
    modulator = Modulator(link, oversampling)
    frames = [transmit.transmit(transmit.payload(1, i, link), link) for i in range(3)]
    waveforms = (modulator.waveform(samples) for samples in frames)
    stream = np.concatenate(list(overlap_add(waveforms, modulator.step)))
    spectrum = np.fft.fft(stream) * pulse.pulse_spectrum(link, stream.size, oversampling)
    filtered = np.fft.ifft(spectrum)
    half = modulator.slot.half
    for index, samples in enumerate(frames):
        centre = modulator.lead + index * modulator.step + modulator.slot.centre * oversampling
        burst = filtered[centre + oversampling * np.arange(-half, half + 1)]
        folded = np.zeros(link.q, np.complex128)
        np.add.at(folded, np.arange(-half, half + 1) % link.q, burst * pulse.burst_window(link))
        # A sinc's tails reach from its neighbours' bursts.
        assert error_db(folded, samples) < (-30 if link.pulse == "sinc" else -40)
        if oversampling == 2:
            start = modulator.lead + index * modulator.step
            got = matched(link, stream, start)
            assert error_db(got, folded) < (-30 if link.pulse == "sinc" else -60)


@pytest.mark.parametrize("rolloffs", [(0.6, 0.6), (0.3, 0.6), (0.6, 0.3)])
def test_paths_make_the_effective_taps(rolloffs: tuple[float, float]) -> None:
    link = Settings(grid="128x32", rolloff=rolloffs[0], doppler_rolloff=rolloffs[1])
    paths = VEHICULAR_A.draw(np.random.default_rng(3), link.nu_max, "fixed")
    sent = transmit.transmit(transmit.payload(1, 0, link), link)
    modulator = Modulator(link)
    received = modulator.through(modulator.waveform(sent), paths)
    got = matched(link, received, modulator.lead)
    taps = channel.effective_taps(paths, link.m, link.n, link.nu_p, link.rolloffs, reach=15)
    expected = banded.apply_samples(sent, banded.bands(taps, link.q))
    # The preambles on both sides of the burst reach up to -40 dB, the error of the taps -60.
    assert error_db(got, expected) < -40
    swapped = channel.effective_taps(
        paths, link.m, link.n, link.nu_p, link.rolloffs[::-1], reach=15
    )
    if rolloffs[0] != rolloffs[1]:
        other = banded.apply_samples(sent, banded.bands(swapped, link.q))
        assert error_db(got, other) > -30


@pytest.mark.parametrize("grid", ["64x32", "64x37"])
def test_a_frame_with_a_prefix_has_the_channel_that_it_is_received_with(grid: str) -> None:
    link = Settings(grid=grid, waveform="cp")
    paths = VEHICULAR_A.draw(np.random.default_rng(3), link.nu_max, "fixed")
    sent = transmit.transmit(transmit.payload(1, 0, link), link)
    modulator = Modulator(link)
    got = matched(link, modulator.through(modulator.waveform(sent), paths), modulator.lead)
    # Doppler turns count from the burst's centre.
    turn = np.exp(-2j * np.pi * paths.doppler * pulse.centre_sample(link) / link.bandwidth)
    moved = channel.Paths(paths.gain * turn, paths.delay, paths.doppler)
    assert error_db(got, prefix.through(sent, moved, link)) < -40
    place = slot.slot(link)
    assert place.chips % link.m == 0
    # Preamble, prefix, frame, and as much again as the prefix.
    assert 0 <= place.chips - (link.m + link.q + 2 * link.last_tap + 1) < link.m


def test_a_carrier_offset_is_taken_off() -> None:
    modulator = Modulator(LINK)
    sent = transmit.transmit(transmit.payload(1, 0, LINK), LINK)
    waveform = modulator.waveform(sent)
    turned = waveform * np.exp(2j * np.pi * 1234.5 / modulator.rate * np.arange(waveform.size))
    straight, corrected = (
        matched(LINK, samples, modulator.lead, carrier)
        for samples, carrier in ((waveform, 0.0), (turned, 1234.5))
    )
    phase = np.vdot(straight, corrected)
    assert error_db(corrected * abs(phase) / phase, straight) < -50


@given(st.floats(-0.5, 0.5), st.integers(1, 5000))
def test_rotation(turns: float, count: int) -> None:
    expected = np.exp(2j * np.pi * turns * np.arange(count))
    np.testing.assert_allclose(rotation(turns, count), expected, atol=1e-5)


@given(st.integers(1, 10**7))
def test_smooth_numbers(least: int) -> None:
    found = rest = pulse.smooth(least)
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    assert rest == 1 and least <= found < 2 * least


def test_the_sequence_is_that_of_38211() -> None:
    """Two shift registers of 31 bits as integers, advanced by 1600."""

    def register(state: int, taps: int, count: int) -> list[int]:
        bits = []
        for _ in range(count):
            bits.append(state & 1)
            state = state >> 1 | (state & taps).bit_count() % 2 << 30
        return bits

    first, second = register(1, 0b1001, 1800), register(1234567, 0b1111, 1800)
    expected = [a ^ b for a, b in zip(first[1600:], second[1600:], strict=True)]
    assert preamble.pseudo_random(200, 1234567).tolist() == expected


@pytest.mark.parametrize("m", [31, 64, 1024])
def test_a_preamble_is_unlike_itself_elsewhere(m: int) -> None:
    link = LINKS["odd"] if m == 31 else Settings(grid=f"{m}x37")
    chips = preamble.preamble_chips(link)
    np.testing.assert_allclose(np.abs(chips), 1)
    correlation = np.abs(np.correlate(chips, chips, "full")) / m
    assert correlation[m - 1] == pytest.approx(1)
    assert np.delete(correlation, m - 1).max() < 3 / np.sqrt(m)


@given(st.integers(0, 40), st.integers(0, 200), st.integers(0, 60), st.integers(0, 300))
def test_where_samples_are_after_a_delay_and_a_gap(
    sample: int, gap_at: int, gap: int, other: int
) -> None:
    given = Impairments(delay=-15.25, gap_at=gap_at, gap=gap)
    stream = np.arange(400).astype(np.complex128)
    pieces = [stream[: other % 400], stream[other % 400 :]]
    got = np.concatenate(list(impaired(pieces, given, 1.0, 2, 0))).real
    place = given.moved(sample + 20)
    if gap_at <= sample + 4 < gap_at + gap:
        assert sample + 20 not in got
    else:
        assert got[place] == sample + 20


@given(st.lists(st.integers(0, 999), max_size=5))
def test_impairments_do_not_depend_on_the_pieces(cuts: list[int]) -> None:
    stream = np.exp(2j * np.arange(1000))
    given = Impairments(10.0, -15.0, 0.01, 0.1, 1.0, 5.0, 300, 40)
    (whole,) = impaired([stream], given, 1.0, 2, 1)
    pieces = list(impaired(np.split(stream, sorted(cuts)), given, 1.0, 2, 1))
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_impairments_are_what_they_say() -> None:
    silence = [np.zeros(100_000, np.complex128)]
    given = Impairments(snr_db=10.0, dc=0.1)
    (got,) = impaired(silence, given, 1.0, 2, 1)
    assert np.var(got) == pytest.approx(0.1, rel=0.02)
    assert abs(np.mean(got)) == pytest.approx(0.1 / np.sqrt(2), rel=0.05)
    rng = np.random.default_rng(1)
    sent = rng.standard_normal(100_000) + 1j * rng.standard_normal(100_000)
    (got,) = impaired([sent], Impairments(iq_db=1.0, iq_degrees=5.0), 1.0, 2, 1)
    # β/α* of gain g and angle φ.
    turned = 10 ** (1 / 20) * np.exp(1j * np.deg2rad(5))
    image = (1 - turned) / (1 + turned).conjugate()
    cleaned = got - image * got.conj()
    assert error_db(cleaned * np.vdot(cleaned, sent) / np.vdot(cleaned, cleaned), sent) < -60


def test_a_simulation_knows_where_its_frames_begin() -> None:
    quiet, late = Simulation(LINK, 3), Simulation(LINK, 3, impairments=Impairments(delay=33.0))
    first, second = (np.concatenate(list(one.pieces(range(2)))) for one in (quiet, late))
    np.testing.assert_allclose(second[33:], first, atol=1e-6)
    assert [a - b for a, b in zip(late.starts(3), quiet.starts(3), strict=True)] == [33] * 3
