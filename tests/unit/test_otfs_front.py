"""The front end on simulated waveforms: lock, offsets, gaps, losses, corrections, any pieces."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otfs_pipeline.front.balance import Balance
from otfs_pipeline.front.compress import Compression
from otfs_pipeline.front.detect import Detector
from otfs_pipeline.front.synchronize import Found, FrontEnd
from otfs_pipeline.link import reference, transmit
from otfs_pipeline.link.pilot import pilot_strip
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.impair import NONE, Impairments
from otfs_pipeline.waveform.preamble import preamble_template
from otfs_pipeline.waveform.simulate import Simulation
from otfs_pipeline.waveform.slot import slot

LINK = Settings(grid="64x32")
LINKS = {
    "point": LINK,
    "spread": replace(LINK, pilot="spread"),
    "prefix": replace(LINK, waveform="cp"),
}
SEED, FRAMES, SNR = 4, 6, 25.0
STEP = 2 * slot(LINK).chips


@lru_cache(maxsize=32)
def simulation(given: Impairments = NONE, link: Settings = LINK) -> tuple[np.ndarray, list[int]]:
    made = Simulation(link, SEED, impairments=given)
    return np.concatenate(list(made.pieces(range(FRAMES)))), made.starts(FRAMES)


def received(
    samples: np.ndarray, cuts: tuple[int, ...] = (), link: Settings = LINK
) -> tuple[list[Found], FrontEnd]:
    front = FrontEnd(link)
    found: list[Found] = []
    for piece in np.split(samples, cuts):
        found += front.push(piece)
    return found + list(front.finish()), front


def errors(found: list[Found], starts: list[int], link: Settings = LINK) -> dict[int, float]:
    """Bit error rate by frame, for those that begin where one was sent."""
    rates = {}
    for one in found:
        near = int(np.argmin(np.abs(np.array(starts) - one.start)))
        if abs(starts[near] - one.start) < LINK.m:
            bits = reference.receive(one.samples.astype(np.complex128), link).bits.ravel()
            rates[near] = float(np.mean(bits != transmit.payload(SEED, near, link)))
    return rates


CLEAN = Impairments(snr_db=SNR)


def test_every_frame_is_received_as_the_ideal_receiver_would() -> None:
    samples, starts = simulation(CLEAN)
    found, front = received(samples)
    rates = errors(found, starts)
    assert list(rates) == list(range(FRAMES)) and np.mean(list(rates.values())) < 6e-3
    assert front.counts.frames == FRAMES and front.counts.locks == 1
    assert front.counts.jumps == front.counts.damaged == 0
    assert all(abs(one.start - at) <= 2 * LINK.delay_taps
               for one, at in zip(found, starts, strict=True))  # fmt: skip


@settings(max_examples=12)
@given(st.lists(st.integers(0, (FRAMES + 1) * STEP), max_size=12))
def test_any_split_of_the_stream_gives_the_same_frames(cuts: list[int]) -> None:
    samples, _ = simulation(Impairments(snr_db=SNR, gap_at=2 * STEP + STEP // 2, gap=500))
    expected, front = received(samples)
    found, other = received(samples, tuple(sorted(min(cut, samples.size) for cut in cuts)))
    assert other.report() == front.report() and len(found) == len(expected) == FRAMES - 1
    for one, two in zip(found, expected, strict=True):
        assert (one.start, one.drift, one.carrier_hz) == (two.start, two.drift, two.carrier_hz)
        np.testing.assert_array_equal(one.samples, two.samples)


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
@settings(max_examples=10)
@given(delay=st.floats(-20, 20), carrier=st.floats(-2000, 2000))
def test_offsets_cost_nothing(link: Settings, delay: float, carrier: float) -> None:
    given = Impairments(snr_db=SNR, delay=delay, carrier_hz=carrier)
    made = Simulation(link, SEED, impairments=given)
    found, front = received(np.concatenate(list(made.pieces(range(3)))), link=link)
    rates = errors(found, made.starts(3), link)
    assert sorted(rates) == [0, 1, 2] and np.mean(list(rates.values())) < 8e-3
    # A path's Doppler cannot be told from it.
    assert abs(front.report()["carrier_hz"] - carrier) < LINK.nu_max


def test_every_frame_has_its_carrier_and_drift() -> None:
    extra, carrier = 4, 900.0
    made = Simulation(LINK, SEED, impairments=Impairments(snr_db=SNR, carrier_hz=carrier))
    samples = np.concatenate(list(made.pieces(range(FRAMES))))
    # A sender's clock that is slow: a few samples more from each preamble to the next.
    slow = np.insert(samples, np.repeat(made.starts(FRAMES)[1:], extra), 0)
    found, front = received(slow)
    assert len(found) == FRAMES and front.counts.jumps == 0
    assert found[0].drift == 0
    for index, one in enumerate(found):
        assert one.drift == one.start - found[0].start - index * STEP
        assert abs(one.drift - extra * index) <= 2 * LINK.delay_taps
        assert abs(one.carrier_hz - carrier) < LINK.nu_max + 1 / LINK.frame_seconds
    # After a jump drift begins anew.
    jumped = np.insert(samples, made.starts(FRAMES)[3] - STEP // 4, np.zeros(STEP // 3))
    found, front = received(jumped)
    assert front.counts.jumps == 1 and max(abs(one.drift) for one in found) <= 2 * LINK.delay_taps


@pytest.mark.parametrize("missing", [-2000, 0, 30, 34, 60, 90])
def test_a_stream_may_begin_anywhere_about_a_preamble(missing: int) -> None:
    samples, starts = simulation(CLEAN)
    cut = samples[missing:] if missing >= 0 else np.pad(samples, (-missing, 0))
    found, _ = received(cut)
    assert list(errors(found, [start - missing for start in starts])) == list(range(FRAMES))


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
@settings(max_examples=15)
@given(at=st.integers(STEP // 4, 4 * STEP), gap=st.integers(40, 3000))
def test_after_a_gap_at_most_two_frames_are_lost(link: Settings, at: int, gap: int) -> None:
    samples, starts = simulation(CLEAN, link)
    samples = np.delete(samples, np.s_[at : at + gap])
    starts = [start - min(max(start - at, 0), gap) for start in starts]
    found, front = received(samples, link=link)
    rates = errors(found, starts, link)
    good = [index for index, rate in rates.items() if rate < 0.05]
    assert len(good) >= FRAMES - 2 and front.counts.locks == 1
    after = next(i for i, start in enumerate(starts) if start > at)
    assert set(range(after + 1, FRAMES)) <= set(good)


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
@pytest.mark.parametrize("gap", [60, 90, 160, 300, 700])
def test_a_frame_that_lacks_samples_in_its_middle_is_not_given_on(link: Settings, gap: int) -> None:
    samples, starts = simulation(CLEAN, link)
    at = starts[2] + 2 * slot(link).centre
    found, front = received(np.delete(samples, np.s_[at : at + gap]), link=link)
    moved = [start - gap * (start > at) for start in starts]
    rates = errors(found, moved, link)
    assert front.counts.damaged == 1 and max(rates.values()) < 0.05
    assert sorted(rates) == [0, 1, 3, 4, 5]


@given(st.floats(0, 3), st.integers(0, 2**32 - 1))
def test_a_spread_pilots_pulses_stand_as_a_points(second: float, seed: int) -> None:
    """Two paths, without data: peaks where they are, and half of them a chirp's period beside."""
    link, dense = Settings(grid="256x32", pilot="spread"), 4
    seen = 2 * link.guard_bins
    compression = Compression(link, dense, 2 * dense * seen + 1)
    gain = np.exp(2j * np.pi * np.random.default_rng(seed).random(2)) * (1, 0.7)
    shift = dense * round(second)
    filtered = np.zeros((1, 2 * dense * seen + 1 + dense * (link.guard_bins - 1)), np.complex64)
    for one, at in zip(gain, (0, 5 * dense + shift), strict=True):
        begin = dense * seen + at
        filtered[0, begin:][: dense * link.guard_bins : dense] += one * pilot_strip(link)
    energy = np.abs(compression.pulses(filtered)[0]) ** 2
    peaks = energy[dense * seen + np.array([0, 5 * dense + shift])]
    np.testing.assert_allclose(peaks / link.pilot_energy, [1, 0.49], atol=0.1)
    echo = energy[dense * (seen - link.chirp_period)] / link.pilot_energy
    assert echo == pytest.approx((1 - link.chirp_period / link.guard_bins) ** 2, abs=0.1)
    kept = compression.paths(energy)
    assert kept[dense * seen] == energy[dense * seen]
    assert kept[dense * (seen - link.chirp_period)] == 0
    assert kept[dense * (seen + link.chirp_period)] == 0


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
@pytest.mark.parametrize("extra", [37, 700, STEP // 2, 3 * STEP + 11])
def test_samples_that_are_too_many_cost_one_frame(link: Settings, extra: int) -> None:
    samples, starts = simulation(CLEAN, link)
    at = starts[2] + STEP // 2
    rng = np.random.default_rng(1)
    noise = 0.1 * (rng.standard_normal(extra) + 1j * rng.standard_normal(extra))
    longer = np.insert(samples, at, noise.astype(np.complex64))
    found, front = received(longer, link=link)
    rates = errors(found, [start + extra * (start > at) for start in starts], link)
    assert {0, 1, 3, 4, 5} <= {index for index, rate in rates.items() if rate < 0.05}
    assert front.counts.damaged <= 1


def test_a_faded_preamble_costs_no_frame() -> None:
    samples, starts = simulation(CLEAN)
    faded = samples.copy()
    faded[starts[3] : starts[3] + 2 * LINK.m] = 0
    found, front = received(faded)
    assert len(errors(found, starts)) == FRAMES
    assert (front.counts.locks, front.counts.jumps) == (1, 0)


def test_pieces_while_a_preamble_is_missed_make_no_searches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples, starts = simulation(CLEAN)
    faded = samples.copy()
    faded[starts[3] : starts[3] + 2 * LINK.m] = 0
    searched, find = list[int](), Detector.find

    def counted(self: Detector, samples: np.ndarray) -> int | None:
        searched.append(samples.size)
        return find(self, samples)

    monkeypatch.setattr(Detector, "find", counted)
    received(faded)
    whole = searched.copy()
    searched.clear()
    received(faded, tuple(range(0, faded.size, 50)))
    assert searched == whole


def test_lost_samples_cost_the_frames_that_had_them() -> None:
    samples, starts = simulation(CLEAN)
    expected, _ = received(samples)
    front = FrontEnd(LINK)
    begin = starts[2] + STEP // 2
    zeroed = samples.copy()
    zeroed[begin : begin + 700] = 0
    front.lose(begin, begin + 700)
    found = [*front.push(zeroed), *front.finish()]
    assert front.counts.damaged == 1 and len(found) == FRAMES - 1
    kept = [one for one in expected if abs(one.start - starts[2]) > LINK.m]
    assert [one.start for one in found] == [one.start for one in kept]


def test_dc_and_image_are_measured_and_taken_off() -> None:
    given = Impairments(snr_db=SNR, dc=0.1, iq_db=1.0, iq_degrees=5.0)
    samples, starts = simulation(given)
    found, front = received(samples)
    rates = errors(found, starts)
    assert len(rates) == FRAMES and np.mean(list(rates.values())) < 1.2e-2
    report = front.report()
    assert report["dc_db"] == pytest.approx(-20, abs=3)
    assert report["image_db"] == pytest.approx(-22.8, abs=3)
    _, front = received(simulation(CLEAN)[0])
    assert front.report()["dc_db"] is front.report()["image_db"] is None


@given(st.integers(0, 2**32 - 1))
def test_balance_follows_theory(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((20_000, 2)).view(np.complex128)[:, 0]
    alpha, beta = 1.02 - 0.05j, 0.06 + 0.04j
    balance = Balance()
    balance.measure(alpha * x + beta * x.conj() + (0.3 - 0.2j))
    assert balance.dc == pytest.approx(0.3 - 0.2j, abs=0.05)
    assert balance.image == pytest.approx(beta / np.conj(alpha), abs=0.03)


def test_noise_and_silence_have_no_frames() -> None:
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((5 * STEP, 2)).view(np.complex128)[:, 0]
    for samples in (noise, 0 * noise, np.ones_like(noise), noise[:10], noise[:0]):
        found, front = received(samples.astype(np.complex64))
        assert found == [] and front.counts.frames == 0


@pytest.mark.parametrize("carrier", [-4000.0, 0.0, 4000.0])
def test_a_preamble_is_found_where_it_is(carrier: float) -> None:
    detector = Detector(LINK)
    rng = np.random.default_rng(3)
    samples = 0.3 * rng.standard_normal((3000, 2)).view(np.complex128)[:, 0]
    turn = np.exp(2j * np.pi * carrier / (2 * LINK.bandwidth) * np.arange(2 * LINK.m))
    samples[1234 : 1234 + 2 * LINK.m] += preamble_template(LINK, 2) * np.sqrt(LINK.m) * turn
    assert detector.find(samples.astype(np.complex64)) == 1234


@pytest.mark.parametrize(
    "link",
    [
        Settings(grid="31x37", nu_p=30e3, guard=9, max_taps=64),
        Settings(grid="64x32", rolloff=0.1, doppler_rolloff=0.2),
        Settings(grid="64x32", guard=45),
        Settings(grid="64x32", pilot="spread"),
        Settings(grid="256x32", pilot="spread"),
        Settings(grid="256x32", pilot="spread", pilot_db=35.0),
        Settings(grid="64x32", waveform="cp"),
        Settings(grid="128x37", waveform="cp", pulse="sinc", guard=55),
        Settings(grid="64x32", pulse="sinc", guard=55, doppler_reach=8, max_taps=192),
    ],
    ids=[
        "odd",
        "two roll-offs",
        "wide guard",
        "spread",
        "larger",
        "louder",
        "prefix",
        "prefix and sinc",
        "sinc",
    ],
)
def test_other_links(link: Settings) -> None:
    made = Simulation(link, 1, impairments=Impairments(snr_db=25.0, delay=7.7, carrier_hz=900.0))
    front = FrontEnd(link)
    found = [*front.push(np.concatenate(list(made.pieces(range(4))))), *front.finish()]
    assert [round((one.start - made.starts(1)[0]) / (2 * slot(link).chips)) for one in found] == [
        0, 1, 2, 3
    ]  # fmt: skip
    for index, one in enumerate(found):
        bits = reference.receive(one.samples.astype(np.complex128), link).bits.ravel()
        assert np.mean(bits != transmit.payload(1, index, link)) < 0.1


@pytest.mark.parametrize("carrier", [-6500.0, -2000.0, 0.0, 6500.0])
def test_a_preamble_tells_its_carrier_roughly(carrier: float) -> None:
    samples, starts = simulation(Impairments(snr_db=20.0, carrier_hz=carrier))
    preamble = samples[starts[2] :][: 2 * LINK.m]
    assert Detector(LINK).carrier(preamble) == pytest.approx(carrier, abs=0.1 * LINK.nu_p)
    both = np.stack([preamble, 1j * preamble], axis=1)
    two = Detector(replace(LINK, antennas=2)).carrier(both)
    assert two == pytest.approx(Detector(LINK).carrier(preamble), abs=1.0)


@pytest.mark.parametrize("carrier", [-9000.0, 9000.0])
def test_a_carrier_a_period_away_is_no_lock(carrier: float) -> None:
    """All pilots would be in their places, and all symbols turned by a Doppler period."""
    samples, _ = simulation(Impairments(snr_db=SNR, carrier_hz=carrier))
    found, front = received(samples)
    report = front.report()
    assert not found and report["locks"] == 0
    assert report["far_carrier_hz"] == pytest.approx(carrier, abs=0.1 * LINK.nu_p)


def test_a_jump_to_a_carrier_a_period_away_is_none() -> None:
    samples, starts = simulation(CLEAN)
    at = starts[3] - STEP // 4
    turn = np.exp(2j * np.pi * 9000.0 / (2 * LINK.bandwidth) * np.arange(samples.size - at))
    retuned = np.concatenate([samples[:at], np.zeros(STEP // 3), samples[at:] * turn])
    found, front = received(retuned.astype(np.complex64))
    assert [round((one.start - starts[0]) / STEP) for one in found] == [0, 1, 2]
    report = front.report()
    assert (report["locks"], report["jumps"]) == (1, 0)
    assert report["far_carrier_hz"] == pytest.approx(9000.0, abs=0.1 * LINK.nu_p)


def test_a_frame_of_another_link_is_not_given_on() -> None:
    """The preamble is that of all links with as many delay bins; the pilot comes 14 bins late."""
    zak, prefix = Settings(grid="128x32"), Settings(grid="128x32", waveform="cp")
    samples = np.concatenate(list(Simulation(zak, SEED).pieces(range(3))))
    found, front = received(samples, link=prefix)
    assert not found and front.counts.locks == 1 and front.counts.damaged >= 2
