"""Settings, frames and the transmitter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from foundryrt.errors import FoundryError, UsageError
from otfs_pipeline.link import frame, transmit, zak
from otfs_pipeline.link.reference import time_mask
from otfs_pipeline.settings import Settings


@st.composite
def links(draw: st.DrawFn) -> Settings:
    m = draw(st.sampled_from([64, 80, 128, 256]))
    n = draw(st.sampled_from([16, 24, 32]))
    guard = draw(st.sampled_from([0, 25, 31]))
    return Settings(
        grid=f"{m}x{n}", guard=guard, modulation=draw(st.sampled_from([4, 16, 64])), max_taps=20
    )


@profile(max_examples=25)
@given(links(), st.integers(0, 99))
def test_frames_hold_what_was_put_in(link: Settings, seed: int) -> None:
    rng = np.random.default_rng(seed)
    symbols = rng.standard_normal(frame.data_symbols(link)) * (1 + 1j)
    grid = frame.assemble(symbols, link)
    np.testing.assert_array_equal(frame.extract(grid, link), symbols)
    assert grid[link.pilot_bin] == link.pilot_amplitude
    strip = grid[frame.guard_rows(link)].copy()
    assert strip.shape == (link.guard_bins, link.n)
    strip[link.guard_bins // 2, link.n // 2] = 0
    assert not strip.any()
    # A strip over all Dopplers is a mask in time as well.
    masked = zak.zak(time_mask(link) * zak.inverse_zak(grid), link.m, link.n)
    np.testing.assert_allclose(masked, grid * frame.data_mask(link), atol=1e-10)


@pytest.mark.parametrize("points", [4, 16, 64])
def test_the_transmitter_sends_unit_energy_symbols(points: int) -> None:
    link = Settings(grid="256x16", modulation=points)
    bits = transmit.payload(3, 0, link)
    assert bits.size == frame.payload_bits(link) == frame.data_symbols(link) * link.bits_per_symbol
    samples = transmit.transmit(bits, link)
    energy = np.sum(np.abs(samples) ** 2) - link.pilot_amplitude**2
    assert energy / frame.data_symbols(link) == pytest.approx(1, abs=0.05)
    assert (transmit.payload(3, 1, link) != bits).any()
    with pytest.raises(ValueError, match="need"):
        frame.assemble(np.zeros(3), link)


def test_the_named_operating_points() -> None:
    small, published = Settings(), Settings(grid="16384x32")
    assert (small.guard_bins, small.q) == (95, 32768)
    assert 20 * np.log10(small.pilot_amplitude) == pytest.approx(34.8, abs=0.05)
    assert published.bandwidth == 245.76e6
    assert published.frame_seconds == pytest.approx(2.1333e-3, rel=1e-4)
    rate = frame.payload_bits(published) / published.frame_seconds
    assert rate / 1e6 == pytest.approx(906.52, rel=2e-3)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"grid": "1024"}, "write delay x Doppler"),
        ({"grid": "0x32"}, "write delay x Doppler"),
        ({"grid": "16x32"}, "guard"),
        ({"grid": "1024x8"}, "noise estimate"),
        ({"pulse": "gauss"}, "rrc or sinc"),
        ({"modulation": 8}, "4 or 16 or 64"),
        ({"gain_model": "rice"}, "fixed or rayleigh"),
        ({"guard": 94}, "odd"),
        ({"guard": 9}, "guard of 9"),
        ({"rolloff": 0.0}, "rolloff"),
        ({"nu_max": 9e3}, "nu-max"),
        ({"iterations": -1}, "iterations"),
        ({"max_taps": 0}, "max-taps"),
        ({"tap_sigmas": float("nan")}, "tap-sigmas"),
        ({"pulse": "sinc", "rolloff": 0.3}, "rolloff 0.3: it is of --pulse rrc"),
        ({"pulse": "sinc", "doppler_rolloff": 0.2}, "doppler-rolloff 0.2: it is of --pulse rrc"),
        ({"pulse": "sinc", "waveform": "cp", "rolloff": 0.3}, "rolloff 0.3: it is of --pulse rrc"),
        ({"decoder_iterations": 8}, "decoder-iterations 8: it needs --code-rate"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Settings(**changes)  # type: ignore[arg-type]


def test_a_bundle_of_settings_that_are_refused_now() -> None:
    """An earlier version took a sinc's roll-offs, and did nothing with them."""
    with pytest.raises(FoundryError, match=r"rolloff 0\.3.*; capture it again") as raised:
        Settings.recorded({"pulse": "sinc", "rolloff": 0.3})
    assert raised.value.exit_code == 1
