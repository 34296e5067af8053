"""The spread pilot: its chirp, its frame, and the channel that is read from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from foundryrt.errors import FoundryError, UsageError
from otfs_pipeline.frames import opening, source, writing
from otfs_pipeline.link import channel, frame, pilot, qam, reference, transmit, zak
from otfs_pipeline.link.estimate import estimate
from otfs_pipeline.settings import Settings

LINK = Settings(grid="256x32", pilot="spread")


@given(st.integers(1, 1400))
def test_a_chirps_shifts_are_orthogonal(period: int) -> None:
    chirp = pilot.zadoff_chu(np.arange(-period, 2 * period), period)
    np.testing.assert_allclose(np.abs(chirp), 1)
    one = chirp[:period]
    np.testing.assert_allclose(chirp, np.tile(one, 3), atol=1e-9)
    correlation = np.fft.ifft(np.abs(np.fft.fft(one)) ** 2)
    np.testing.assert_allclose(correlation, period * (np.arange(period) == 0), atol=1e-8)


@st.composite
def links(draw: st.DrawFn) -> Settings:
    m, n = draw(st.sampled_from([96, 128, 131])), draw(st.sampled_from([16, 31, 32]))
    return Settings(
        grid=f"{m}x{n}",
        pilot="spread",
        guard=draw(st.sampled_from([0, 15, 17, 33])),
        nu_max=draw(st.sampled_from([0.0, 400.0])),
        tap_sigmas=0.0,
        max_taps=1,
    )


@profile(max_examples=40)
@given(links(), st.integers(0, 999))
def test_the_taps_are_exact_amid_data(given: Settings, seed: int) -> None:
    """Any taps of the whole window, and data in every bin beside the strip."""
    rng = np.random.default_rng(seed)
    shape = (given.window_delays, 2 * given.doppler_range + 1)
    values = rng.standard_normal((*shape, 2)).view(np.complex128)[..., 0]
    a = given.first_tap + np.arange(shape[0])
    b = np.arange(shape[1]) - given.doppler_range
    taps = channel.Taps(values.ravel(), *(x.ravel() for x in np.meshgrid(a, b, indexing="ij")))
    bits = rng.integers(0, 2, (frame.data_symbols(given), 4))
    received = channel.apply(frame.assemble(qam.modulate(bits, 16), given), taps)
    link = replace(given, max_taps=values.size)
    got = estimate(received, link)
    np.testing.assert_allclose(got.taps.value, taps.value, atol=1e-9)
    assert got.noise_variance < 1e-18


def test_its_energy_is_in_all_samples_of_the_strip_alike() -> None:
    point = Settings(grid=LINK.grid, guard=LINK.guard_bins)
    for link in (LINK, point):
        samples = zak.inverse_zak(frame.pilot_grid(link)).reshape(link.n, link.m)
        assert np.sum(np.abs(samples) ** 2) == pytest.approx(link.pilot_energy)
    assert LINK.pilot_energy == point.pilot_energy
    # By default a symbol's power; a point's is as large as the strip has delays.
    strip = np.abs(zak.inverse_zak(frame.pilot_grid(LINK)).reshape(LINK.n, LINK.m))
    np.testing.assert_allclose(strip[:, frame.guard_rows(LINK)], 1)
    assert np.max(np.abs(samples)) == pytest.approx(np.sqrt(point.guard_bins))
    for link in (LINK, point):
        sent = transmit.transmit(transmit.payload(1, 0, link), link)
        assert 0.6 < np.max(np.abs(sent)) / pilot.largest_sample(link) < 1.2


def test_what_noise_makes_of_the_taps() -> None:
    """Many frames of noise alone: σ² is that of a bin, and each tap has σ²/A²."""
    link = Settings(grid="64x32", pilot="spread", tap_sigmas=0.0, max_taps=20 * 13)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((200, link.m, link.n, 2)).view(np.complex128)[..., 0] / np.sqrt(2)
    got = [estimate(grid, link) for grid in noise]
    assert np.mean([one.noise_variance for one in got]) == pytest.approx(1, rel=0.02)
    taps = np.mean([np.abs(one.taps.value) ** 2 for one in got])
    assert taps * link.pilot_amplitude**2 == pytest.approx(1, rel=0.02)
    assert link.pilot_amplitude**2 == pytest.approx(link.pilot_energy * 20 / 39)


@pytest.mark.parametrize("points", [4, 16, 64])
def test_high_snr_gives_the_payload_back(points: int) -> None:
    link = Settings(grid="256x32", pilot="spread", modulation=points, iterations=150)
    item = source.simulate(link, 55.0, 11, 0)
    got = reference.receive(item.samples.astype(np.complex128), link)
    assert np.count_nonzero(got.bits.ravel() != item.bits) == 0


def test_it_does_as_well_as_a_point() -> None:
    wrong = []
    for link in (LINK, Settings(grid=LINK.grid, guard=LINK.guard_bins)):
        found = [
            np.mean(reference.receive(item.samples.astype(np.complex128), link).bits.ravel()
                    != item.bits)
            for item in source.synthetic(link, 20.0, 3, 12)
        ]  # fmt: skip
        wrong.append(np.mean(found))
    assert 5e-3 < wrong[1] < 5e-2
    assert wrong[0] < 1.2 * wrong[1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pilot": "line"}, "point or spread"),
        ({"grid": "64x32", "pilot": "spread", "guard": 45}, "would reach the next one"),
    ],
)
def test_what_cannot_be_sent(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Settings(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("is_named", [True, False], ids=["named", "of an earlier version"])
def test_a_recording_with_another_pilot_is_refused(tmp_path: Path, is_named: bool) -> None:
    link = Settings(grid="64x32")
    frames = list(source.synthetic(link, 20.0, 1, 1))
    writing.write_recording(str(tmp_path / "link"), frames, link, 1)
    meta = tmp_path / "link.sigmf-meta"
    if not is_named:
        fields = json.loads(meta.read_text())
        del fields["global"]["otfs:settings"]["pilot"]
        meta.write_text(json.dumps(fields))
    opening.open_recording(str(meta), "", "", link)
    with pytest.raises(FoundryError, match="sent with pilot point"):
        opening.open_recording(str(meta), "", "", replace(link, pilot="spread"))
