"""The front end's CUDA kernels, run on the CPU, against the front end in numpy."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otfs_pipeline.front.signature import FRONT, waveform_span
from otfs_pipeline.front.synchronize import FrontEnd
from otfs_pipeline.front.track import Tracker
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.impair import Impairments
from otfs_pipeline.waveform.simulate import Simulation
from otfs_pipeline.waveform.slot import slot
from tests.host.front_on_cpu import FrontOnCpu

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")
LINK = Settings(grid="64x32")
OFFSETS = {"delay": 3.3, "carrier_hz": 900.0, "dc": 0.2, "iq_db": 2.0, "iq_degrees": 8.0}


TWO = Settings(grid="64x32", antennas=2, gain_model="rayleigh")


def stream(link: Settings, frames: int, **given: Any) -> np.ndarray:
    made = Simulation(link, 4, impairments=Impairments(25.0, **given))
    return np.concatenate(list(made.pieces(range(frames))))


@pytest.mark.parametrize(
    ("link", "close"),
    [
        (LINK, 1e-3),
        (Settings(grid="31x37", nu_p=30e3, guard=9, max_taps=64), 1e-3),
        (Settings(grid="64x32", rolloff=0.3, doppler_rolloff=0.2), 2e-3),
        # A pulse with long tails, in more parts than one, and cut by both.
        (Settings(grid="64x32", pulse="sinc", guard=55, doppler_reach=8), 3e-2),
        (Settings(grid="256x32", pilot="spread"), 1e-3),
        (Settings(grid="256x32", waveform="cp"), 1e-3),
        (TWO, 1e-3),
        (Settings(grid="128x32", pilot="spread", antennas=4), 1e-3),
    ],
    ids=["small", "odd", "two roll-offs", "sinc", "spread", "prefix", "antennas", "spread to 4"],
)
def test_the_kernels_find_what_numpy_finds(link: Settings, close: float, tmp_path: Path) -> None:
    samples = stream(link, 2, **OFFSETS)
    host = FrontEnd(link)
    expected = [*host.push(samples), *host.finish()]
    front = FrontOnCpu(link, tmp_path)
    got = [one for one in front.frames(samples) if one[0]["given"] == 1]
    assert len(got) == len(expected) == 2
    for (told, start, frame), one in zip(got, expected, strict=True):
        assert start == one.start
        assert told["carrier"] == pytest.approx(one.carrier_hz, abs=0.02)
        assert np.linalg.norm(frame - one.samples) < close * np.linalg.norm(one.samples)
    told, report = got[-1][0], host.report()
    assert told["mean_carrier"] == pytest.approx(report["carrier_hz"], rel=1e-3)
    # What is not significant is not taken off.
    assert link.pulse == "sinc" or None not in np.ravel([report["dc_db"], report["image_db"]])
    each = [dict(zip(FRONT, row, strict=True)) for row in front.arrays["front"].reshape(-1, 9)]
    measured = {
        "dc_db": [abs(complex(of["dc_re"], of["dc_im"])) / of["rms"] for of in each],
        "image_db": [abs(complex(of["image_re"], of["image_im"])) for of in each],
    }
    for name, values in measured.items():
        of_host = report[name] if link.antennas > 1 else [report[name]]
        expected = [0 if decibels is None else 10 ** (decibels / 20) for decibels in of_host]
        assert values == pytest.approx(expected, rel=1e-4), name


@pytest.mark.parametrize(
    "link",
    [LINK, Settings(grid="128x32", pilot="spread"), Settings(grid="64x32", waveform="cp")],
    ids=["point", "spread", "prefix"],
)
def test_a_doubtful_burst_is_given_on_only_where_it_is_whole(
    link: Settings, tmp_path: Path
) -> None:
    front, tracker = FrontOnCpu(link, tmp_path), Tracker(link, waveform_span(link))
    (burst,) = [burst.samples.copy() for burst in tracker.push(stream(link, 1))]
    whole = front.burst(burst, doubtful=True)
    assert whole["given"] == 1
    known, frame = front.arrays["tracked"].copy(), front.arrays["frame"].copy()
    # Only a frame that is expected says something of the radio; any that is found, of the carrier.
    assert not known[:6].any() and known[6:].any()
    at = 2 * (slot(link).centre - waveform_span(link)[0] // 2)
    gap = np.concatenate([np.delete(burst, np.s_[at : at + 160]), np.zeros(160, np.complex64)])
    assert front.burst(gap, doubtful=True)["given"] == 0
    assert not front.arrays["frame"].any()
    np.testing.assert_array_equal(front.arrays["tracked"], known)
    silence = front.burst(np.zeros_like(burst), doubtful=True)
    assert silence["given"] == 2
    again = front.burst(burst, doubtful=True)
    assert again["delay"] == whole["delay"] and again["given"] == 1
    np.testing.assert_array_equal(front.arrays["frame"], frame)
    # What is expected is given on, with samples missing too: the decoder will tell.
    assert front.burst(gap, doubtful=False)["given"] == 1
    assert front.arrays["tracked"][:6].any()


def test_few_delays_are_ranked_among_themselves(tmp_path: Path) -> None:
    link = Settings(grid="64x32", pilot="spread", guard=9, max_taps=26)
    samples = stream(link, 1)
    (expected,) = FrontEnd(link).push(samples)
    front = FrontOnCpu(link, tmp_path)
    count = front.arrays["inside"].size
    assert count < 64  # Threads of `keep_paths`.
    behind = np.full(64, 1e20, np.float32)
    front.arrays["inside"] = behind[:count]
    told, start, _ = front.frames(samples)[0]
    assert (told["given"], start) == (1, expected.start)


def test_silence_is_no_frame_and_says_nothing_of_the_radio(tmp_path: Path) -> None:
    front = FrontOnCpu(LINK, tmp_path)
    first, last = waveform_span(LINK)
    told = front.burst(np.zeros(last - first, np.complex64), doubtful=False)
    assert (told["given"], told["carrier"], told["dc_re"]) == (0, 0, 0)
    assert not front.arrays["tracked"].any() and not front.arrays["frame"].any()
