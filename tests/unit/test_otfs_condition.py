"""Totals and entries of how frames were, by what a receiver said of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from otfs_pipeline.frames.condition import Conditions, Fit
from otfs_pipeline.frames.source import UNKNOWN, Frame
from otfs_pipeline.link import frame, qam
from otfs_pipeline.settings import Settings

LINK = Settings(grid="64x32")
GOOD = {"noise_variance": 0.01, "variance": 0.02, "taps": 5, "power": 1.0, "peak": 3.0,
        "clipped": 1.0, "burst": 2.0, "missing": 0.0, "evm": 0.1}  # fmt: skip


NOTHING = Frame(UNKNOWN, UNKNOWN)


def say(conditions: Conditions, frame: Frame = NOTHING, **changes: float) -> dict:
    outputs = {name: np.array(value) for name, value in (GOOD | changes).items()}
    entry = conditions.take(frame, outputs, {"bit_errors": None})
    return json.loads(json.dumps(entry, allow_nan=False))


@pytest.mark.parametrize("pilot", ["point", "spread"])
def test_a_frames_snr_is_the_channels_gain_over_the_noise(pilot: str) -> None:
    link = replace(LINK, pilot=pilot)
    energy = np.sum(np.abs(frame.pilot_grid(link)) ** 2) + frame.data_symbols(link)
    power = 0.5 * energy / link.q + 0.01
    line = say(Conditions(link), power=power)
    assert line["snr_db"] == pytest.approx(10 * math.log10(0.5 / 0.01), abs=1e-4)
    assert line["channel_gain_db"] == pytest.approx(10 * math.log10(0.5), abs=1e-4)
    assert line["equalized_snr_db"] == pytest.approx(10 * math.log10(50), abs=1e-4)
    assert line["evm_percent"] == pytest.approx(10)
    assert line["bit_errors"] is None
    assert not {"crc", "carrier_hz", "timing_us"} & line.keys()


def test_a_frame_of_a_waveform_has_its_offsets() -> None:
    found = Frame(UNKNOWN, UNKNOWN, carrier_hz=-312.5, drift_s=2.5e-7)
    line = say(Conditions(LINK), found)
    assert (line["carrier_hz"], line["timing_us"]) == (-312.5, 0.25)


def test_flags_and_totals() -> None:
    conditions = Conditions(LINK)
    assert say(conditions)["flags"] == []
    assert say(conditions, clipped=7.0)["flags"] == []
    assert say(conditions, clipped=8.0)["flags"] == ["clipped"]
    assert say(conditions, burst=10.1, missing=32.0)["flags"] == ["burst", "missing"]
    totals = conditions.totals()
    assert (totals["frames"], totals["good"]) == (4, 2)
    counts = {"clipped": 1, "burst": 1, "missing": 1, "mismatch": 0, "noisy": 0, "crc": 0}
    assert totals["flags"] == counts


def seen(link: Settings, points: int, snr_db: float, turn: float = 0.0) -> dict[str, np.ndarray]:
    """What is said of noisy symbols of so many points, turned by 0 to `turn` rad along a frame."""
    rng, count = np.random.default_rng(1), 20_000
    bits = rng.integers(0, 2, (count, points.bit_length() - 1))
    noise = rng.standard_normal((count, 2)).view(np.complex128)[:, 0]
    variance = 10 ** (-snr_db / 10)
    symbols = qam.modulate(bits, points) + math.sqrt(variance / 2) * noise
    symbols *= np.exp(1j * turn * np.linspace(0, 1, count))
    levels = qam.amplitudes(link.modulation)
    beside = np.abs(symbols.view(np.float64)[:, None] - levels).min(axis=1)
    energy = 2 * float(np.mean(beside**2))
    return {"variance": np.array(variance), "evm": np.array(math.sqrt(energy))}


@pytest.mark.parametrize("points", [4, 16, 64])
@pytest.mark.parametrize("snr_db", [-10, 2, 10, 20, 30, 50])
def test_noise_alone_is_no_mismatch(points: int, snr_db: float) -> None:
    link = replace(LINK, modulation=points)
    outputs = seen(link, points, snr_db)
    assert qam.nearest_energy(float(outputs["variance"]), points) == pytest.approx(
        float(outputs["evm"]) ** 2, rel=0.03
    )
    fit = Fit(link)
    # Noise of an axis over half the distance: 4-QAM at 0 dB, 16-QAM at 7 dB, 64-QAM at 13 dB.
    is_noisy = snr_db < {4: 0.0, 16: 7.0, 64: 13.2}[points]
    assert fit.take(outputs) == {"mismatch": False, "noisy": is_noisy}
    assert fit.flags == {"mismatch": 0, "noisy": int(is_noisy)}


@pytest.mark.parametrize(("points", "sent"), [(4, 16), (16, 4), (16, 64), (64, 16), (4, 64)])
def test_symbols_of_another_modulation_do_not_fit(points: int, sent: int) -> None:
    link = replace(LINK, modulation=points)
    assert Fit(link).take(seen(link, sent, 22.0))["mismatch"]


def test_symbols_that_turn_along_a_frame_do_not_fit() -> None:
    """A carrier that is off by a Doppler period does this: every pilot is where it should be."""
    assert Fit(LINK).take(seen(LINK, 16, 20.0, turn=2 * math.pi))["mismatch"]


def test_a_decoders_word_counts_more_than_noise() -> None:
    coded = Settings(grid="64x32", code_rate=0.5)
    assert Fit(coded).take(seen(coded, 16, 3.0)) == {"mismatch": False, "noisy": False}


def test_crcs_count_where_frames_are_coded() -> None:
    conditions = Conditions(Settings(grid="64x32", code_rate=0.5))
    line = say(conditions, frame_error=0, block_errors=[0, 0])  # type: ignore[arg-type]
    assert (line["crc"], line["block_errors"], line["flags"]) == (True, 0, [])
    line = say(conditions, frame_error=1, block_errors=[0, 1])  # type: ignore[arg-type]
    assert (line["crc"], line["block_errors"], line["flags"]) == (False, 1, ["crc"])


def test_what_has_no_decibels_is_null() -> None:
    conditions = Conditions(LINK)
    line = say(conditions, noise_variance=0.0, power=0.0, variance=0.0, burst=0.0)
    names = ("snr_db", "channel_gain_db", "equalized_snr_db", "burst_db")
    assert all(line[name] is None for name in names)
    assert conditions.totals()["snr_db"] is None
