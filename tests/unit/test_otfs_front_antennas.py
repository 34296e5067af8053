"""The front end of several antennas: one timing and carrier, a frame of each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from otfs_pipeline import run
from otfs_pipeline.front.synchronize import Found, FrontEnd
from otfs_pipeline.link import reference, transmit
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.impair import Impairments
from otfs_pipeline.waveform.simulate import Simulation

LINK = Settings(grid="64x32", antennas=2, gain_model="rayleigh")


def waveform(link: Settings, frames: int, snr_db: float = 18.0, **given: float) -> np.ndarray:
    made = Simulation(link, 4, impairments=Impairments(snr_db, **given))
    return np.concatenate(list(made.pieces(range(frames))))


def found(link: Settings, samples: np.ndarray) -> tuple[list[Found], FrontEnd]:
    front = FrontEnd(link)
    return [*front.push(samples), *front.finish()], front


def errors(link: Settings, frames: list[Found]) -> float:
    wrong = [
        np.mean(reference.receive(one.samples, link, periods=True).bits.ravel()
                != transmit.payload(4, index, link))
        for index, one in enumerate(frames)
    ]  # fmt: skip
    return float(np.mean(wrong))


def test_two_antennas_are_better_than_either() -> None:
    samples = waveform(LINK, 6, delay=3.3, carrier_hz=900.0, dc=0.1, iq_db=1.0, iq_degrees=5.0)
    both, front = found(LINK, samples)
    assert len(both) == 6 and both[0].samples.shape == LINK.frame_shape
    one = replace(LINK, antennas=1)
    alone = [found(one, np.ascontiguousarray(antenna))[0] for antenna in samples.T]
    rates = [errors(one, frames) for frames in alone]
    assert errors(LINK, both) < 0.6 * min(rates)
    report = front.report()
    assert abs(report["carrier_hz"] - 900) < LINK.nu_max
    assert len(report["dc_db"]) == len(report["image_db"]) == 2
    assert report["dc_db"][0] == pytest.approx(-20, abs=1.5)


def test_an_antenna_that_hears_nothing_changes_nothing() -> None:
    one = replace(LINK, antennas=1)
    samples = waveform(one, 3, carrier_hz=-700.0)
    alone, _ = found(one, samples)
    for place in (0, 1):
        dead = np.stack([np.zeros_like(samples)] * 2, axis=1)
        dead[:, place] = samples
        both, front = found(LINK, dead)
        assert [each.start for each in both] == [each.start for each in alone]
        for got, expected in zip(both, alone, strict=True):
            np.testing.assert_array_equal(got.samples[place], expected.samples)
            assert not got.samples[1 - place].any()
        assert front.counts.damaged == 0


def test_pieces_of_any_length_give_the_same() -> None:
    samples = waveform(LINK, 3, delay=-40.0)
    whole, _ = found(LINK, samples)
    front, got = FrontEnd(LINK), list[Found]()
    for piece in np.array_split(samples, [7, 5000, 5001, 20000]):
        got += front.push(piece)
    got += front.finish()
    assert len(got) == len(whole) >= 2
    for one, other in zip(got, whole, strict=True):
        np.testing.assert_array_equal(one.samples, other.samples)


@pytest.mark.parametrize(
    ("dc", "text"),
    [([None, -20.2], ", DC none / -20 dB"), ([None, None], ""), (-31.0, ", DC -31 dB")],
)
def test_what_is_printed_of_a_front_end_names_every_antenna(dc: Any, text: str) -> None:
    found = {"locks": 1, "jumps": 0, "damaged": 2, "carrier_hz": 700.0, "dc_db": dc,
             "image_db": None}  # fmt: skip
    said = run._front_end(found)
    assert said == f"1 locks, 0 jumps, 2 frames damaged, carrier +700 Hz{text}"
