"""Raw sources: any rate, pieces of any length, recordings, the run driver and the sender."""

from __future__ import annotations

import itertools
import json
import socket
import threading
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sigmf
from hypothesis import given, settings
from hypothesis import strategies as st

from foundryrt.errors import FoundryError, UsageError
from otfs_pipeline import run, send
from otfs_pipeline.frames import opening, source
from otfs_pipeline.frames.raw import Raw
from otfs_pipeline.frames.source import UNKNOWN, Frame
from otfs_pipeline.frames.wire import Counts
from otfs_pipeline.link import reference
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.impair import Impairments
from otfs_pipeline.waveform.simulate import Simulation
from otfs_pipeline.waveform.slot import air_payload_mbps, slot
from tests.unit.test_otfs_source import LINK, ReferenceSession

pytest.importorskip("soxr")
SEED, COUNT = 5, 4


@lru_cache(maxsize=8)
def stream(oversampling: int = 2) -> tuple[np.ndarray, list[int]]:
    made = Simulation(LINK, SEED, impairments=Impairments(snr_db=25.0), oversampling=oversampling)
    return np.concatenate(list(made.pieces(range(COUNT)))), made.starts(COUNT)


def pieces(samples: np.ndarray, cuts: list[int], starts: list[int]) -> list[Frame]:
    """The stream cut at `cuts` and where frames begin, which have their payloads."""
    ends = sorted({*cuts, *starts, 0, samples.size})
    return [
        Frame(
            samples[begin:end],
            source.known_payload(SEED, starts.index(begin), LINK) if begin in starts else UNKNOWN,
        )
        for begin, end in itertools.pairwise(ends)
    ]


def wrong(frames: list[Frame]) -> list[float]:
    """Bit error rates of frames whose payloads are known."""
    return [
        float(np.mean(reference.receive(f.samples.astype(complex), LINK).bits.ravel() != f.bits))
        for f in frames
        if f.bits.size
    ]


@settings(max_examples=8)
@given(st.lists(st.integers(1, 50_000), max_size=8))
def test_resampling_is_the_same_in_any_pieces(cuts: list[int]) -> None:
    samples, starts = stream(3)
    rate = 3 * LINK.bandwidth
    inside = [cut for cut in cuts if cut < samples.size]
    found = list(Raw(LINK, rate).frames(pieces(samples, inside, starts), Counts()))
    whole = list(Raw(LINK, rate).frames(pieces(samples, [], starts), Counts()))
    assert len(found) == COUNT
    for one, two in zip(found, whole, strict=True):
        np.testing.assert_array_equal(one.samples, two.samples)
        np.testing.assert_array_equal(one.bits, two.bits)


@pytest.mark.parametrize("rate", [2.0, 3.0, 4.0])
def test_other_rates_are_received_as_well(rate: float) -> None:
    samples, starts = stream(int(rate))
    raw = Raw(LINK, rate * LINK.bandwidth)
    found = list(raw.frames(pieces(samples, [], starts), Counts()))
    rates = wrong(found)
    assert len(rates) == COUNT and np.mean(rates) < 8e-3
    assert raw.report()["locks"] == 1


def test_a_rate_that_is_no_multiple() -> None:
    import soxr

    samples, _ = stream(2)
    parts = samples.view(np.float32).reshape(-1, 2)
    other = soxr.resample(parts, 2.0, 2.3, quality="VHQ").view(np.complex64).ravel()
    found = list(Raw(LINK, 2.3 * LINK.bandwidth).frames([Frame(other, UNKNOWN)], Counts()))
    expected = list(Raw(LINK, 0.0).frames([Frame(samples, UNKNOWN)], Counts()))
    assert len(found) == len(expected) == COUNT
    for one, two in zip(found, expected, strict=True):
        assert np.linalg.norm(one.samples - two.samples) < 0.1 * np.linalg.norm(two.samples)


@pytest.mark.parametrize("rate", [1e5, 0.99 * 1.6 * 0.96e6, 1e12, float("inf"), float("nan")])
def test_a_rate_that_cannot_be_is_refused(rate: float) -> None:
    with pytest.raises(UsageError, match=r"occupies 1\.536e"):
        Raw(LINK, rate)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_samples_that_are_no_numbers_cost_their_frame_alone(bad: float) -> None:
    samples, starts = stream()
    broken = samples.copy()
    broken[starts[1] + 3000] = bad
    raw = Raw(LINK, 0.0)
    found = list(raw.frames(pieces(broken, [], starts), Counts()))
    assert raw.report()["damaged"] == 1 and len(found) == COUNT - 1
    assert np.isfinite([f.samples for f in found]).all()
    expected = wrong(list(Raw(LINK, 0.0).frames(pieces(samples, [], starts), Counts())))
    del expected[1]
    np.testing.assert_allclose(wrong(found), expected, atol=2e-3)


def test_broken_samples_cost_the_same_frames_in_any_pieces() -> None:
    samples, starts = stream()
    broken = samples.copy()
    # In the last symbols of one burst and the first of another: not what lies between.
    broken[[starts[1] + 400, starts[2] + 6000]] = np.nan
    counts = [
        len(list(Raw(LINK, 0.0).frames(pieces(broken, cuts, starts), Counts())))
        for cuts in ([], [starts[2] + 100], list(range(50, samples.size, 977)))
    ]
    assert counts == [COUNT - 2] * 3


@pytest.mark.parametrize("rate", [0.0, 3.0])
def test_lost_pieces_are_filled_in(rate: float) -> None:
    """A piece of every sixteen to a slot is lost: its frame, and no other, is damaged."""
    samples, starts = stream(int(rate) or 2)
    step = starts[1] - starts[0]
    cut = np.split(samples[starts[0] :], range(step // 16, samples.size - starts[0], step // 16))
    counts = Counts()

    def sent():
        for number, piece in enumerate(cut):
            if number == 24:
                counts.lost += 1
            else:
                yield Frame(piece, UNKNOWN)

    raw = Raw(LINK, rate * LINK.bandwidth)
    assert len(list(raw.frames(sent(), counts))) == COUNT - 1
    report = raw.report()
    assert (report["locks"], report["jumps"], report["damaged"]) == (1, 0, 1)


def write(folder: Path, *options: str) -> tuple[str, dict]:
    path = str(folder / "air")
    arguments = ["--raw", "--output", path, "--grid", LINK.grid, "--frames", str(COUNT)]
    assert send.main([*arguments, "--snr", "25", "--seed", str(SEED), *options]) == 0
    return path, json.loads(Path(path + ".sigmf-meta").read_text())


@pytest.mark.parametrize(
    "options",
    [
        ("--datatype", "ci8", "--carrier", "-1800"),
        ("--oversampling", "3", "--delay", "-21.5", "--datatype", "cu8"),
        ("--gap", "700", "--gap-at", "17000", "--datatype", "ci16_le"),
        (
            "--delay",
            "-6000",
        ),
    ],
    ids=["8 bits", "other rate", "gap", "cut"],
)
def test_a_recording_that_was_sent_is_received(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    path, meta = write(tmp_path, *options)
    capsys.readouterr()
    sigmf.fromfile(path + ".sigmf-meta").validate()
    whole = meta["global"]
    assert whole["otfs:slot_seconds"] == pytest.approx(slot(LINK).seconds)
    assert whole["otfs:air_payload_mbps"] == pytest.approx(air_payload_mbps(LINK))
    asked = run.Options(iq=path + ".sigmf-meta", raw=True)
    report = run.run(ReferenceSession(), asked, json=True)
    cut, lost = "-6000" in options, "--gap" in options or "-6000" in options
    assert report["frames"] == report["ber_frames"] == COUNT - lost
    assert report["ber"] < 2e-2 and report["air_payload_mbps"] == pytest.approx(
        air_payload_mbps(LINK)
    )
    front = report["front_end"]
    assert (front["locks"], front["jumps"]) == (1, lost and not cut)
    assert report["deadline_ms"] == pytest.approx(slot(LINK).seconds * 1e3)


def test_a_waveform_is_no_recording_of_frames(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = write(tmp_path)
    with pytest.raises(FoundryError, match="give --raw"):
        opening.open_recording(path + ".sigmf-meta", "", "", LINK)
    with pytest.raises(FoundryError, match="sent with rolloff"):
        opening.open_recording(path + ".sigmf-meta", "", "", replace(LINK, rolloff=0.3), True)
    capsys.readouterr()
    asked = run.Options(iq=path + ".sigmf-meta", raw=True)
    run.run(ReferenceSession(), asked, json=False)
    assert "front end   1 locks, 0 jumps, 0 frames damaged, carrier" in capsys.readouterr().out


def test_a_run_says_that_nothing_was_found(tmp_path: Path) -> None:
    path = tmp_path / "noise.raw"
    rng = np.random.default_rng(1)
    rng.standard_normal(80_000).astype("<f4").tofile(path)
    asked = run.Options(iq=str(path), datatype="cf32_le", raw=True)
    with pytest.raises(FoundryError, match="no preamble of this bundle's link"):
        run.run(ReferenceSession(), asked, json=True)


def test_a_run_says_why_it_has_no_frame(tmp_path: Path) -> None:
    def ends(samples: np.ndarray, match: str) -> None:
        path = tmp_path / "air.raw"
        samples.astype("<c8").tofile(path)
        asked = run.Options(iq=str(path), datatype="cf32_le", raw=True)
        with pytest.raises(FoundryError, match=match) as raised:
            run.run(ReferenceSession(), asked, json=True)
        assert raised.value.exit_code == 1

    samples, starts = stream()
    ends(samples[:0], "there is no sample in the recording")
    ends(samples[: starts[0] + 2 * LINK.m + 50], "ends before its frame does")
    broken = samples.copy()
    broken[::500] = np.nan
    ends(broken, f"{COUNT} frames were damaged: samples of them are missing, or .* another link")
    turn = np.exp(-2j * np.pi * 9000 / (2 * LINK.bandwidth) * np.arange(samples.size))
    ends(samples * turn, r"off by about -\d+ Hz, and the front end takes up to 5000 Hz")
    ends(samples.conj(), f"in {samples.size} samples; .*settings, .*--datatype right, .*carrier")


@pytest.mark.parametrize(
    "given",
    [{"udp": "127.0.0.1:0", "raw": True}, {"zmq": "ipc://{}/link"},
     {"zmq": "ipc://{}/link", "bare": "push", "raw": True}],
)  # fmt: skip
def test_a_source_that_brings_nothing(tmp_path: Path, given: dict[str, Any]) -> None:
    pytest.importorskip("zmq")
    place = next(iter(given.values())).format(tmp_path)
    if "udp" in given:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            place = f"127.0.0.1:{free.getsockname()[1]}"
    asked = run.Options(**{**given, next(iter(given)): place}, idle_timeout=0.1)
    with pytest.raises(FoundryError, match=r"nothing came from .* in 0\.1 s; start the sender"):
        run.run(ReferenceSession(), asked, json=True)


@pytest.mark.parametrize("kind", ["zmq", "shm"])
def test_a_live_waveform_with_its_payloads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    pytest.importorskip("zmq")
    place = f"ipc://{tmp_path}/link" if kind == "zmq" else str(tmp_path / "ring")
    arguments = ["--raw", f"--{kind}", place, "--grid", LINK.grid, "--frames", "5", "--pool", "2"]
    sender = threading.Thread(target=send.main, args=([*arguments, "--snr", "25"],))
    sender.start()
    asked = run.Options(**{kind: place}, raw=True, lossless=True, idle_timeout=20.0)
    report = run.run(ReferenceSession(), asked, json=True)
    sender.join(20)
    assert not sender.is_alive()
    assert report["frames"] == report["ber_frames"] == 5 and report["ber"] < 1e-2
    assert (report["lost"], report["malformed"], report["dropped"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"raw": True}, "--raw needs a source"),
        ({"iq": "a", "rate": 1e6}, "give --raw, too"),
        ({"udp": "0.0.0.0:9"}, "give --raw, too"),
        ({"iq": "a", "raw": True, "rate": -1.0}, "--rate -1.0"),
        ({"udp": "0.0.0.0:9", "raw": True, "packets": "rtp"}, "sequence or vita49"),
        ({"zmq": "ipc://x", "raw": True, "datatype": "ci8"}, "--datatype needs"),
        ({"iq": "a", "raw": True, "packets": "vita49"}, "--packets needs --udp"),
    ],
)
def test_options_that_do_not_fit(changes: dict, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        run.Options(**changes)


def test_a_datatype_that_is_none() -> None:
    asked = run.Options(udp="127.0.0.1:9", raw=True, datatype="cf16")
    with pytest.raises(UsageError, match="use one of cf32_le"):
        run.run(ReferenceSession(), asked, json=True)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--zmq", "ipc://x", "--raw", "--iq", "a"], "--iq holds frames"),
        (["--output", "a"], "give --raw"),
        (["--zmq", "ipc://x", "--carrier", "100"], "--carrier is of a waveform"),
        (["--udp", "127.0.0.1:1", "--raw", "--gap", "3"], "--gap needs --output"),
        (["--output", "a", "--raw", "--oversampling", "1"], "2 to 16"),
        (["--output", "a", "--raw", "--carrier", "2e7"], "hold offsets up to 1.536e+07 Hz"),
        (["--udp", "nowhere", "--raw", "--frames", "1", "--grid", "64x32"], "ADDRESS:PORT"),
        (["--zmq", "ipc://x", "--iq", "a", "--snr", "3"], "--snr is of simulated frames, not --iq"),
        (["--zmq", "ipc://x", "--iq", "a", "--datatype", "ci8"], "--datatype is of simulated"),
        (["--zmq", "ipc://x", "--slots", "3"], "--slots is of --shm"),
        (["--raw", "--zmq", "ipc://x", "--datatype", "ci16_be"], "ci16_be is of --udp and"),
        (["--raw", "--output", "a", "--pace"], "--pace is of a live receiver, not --output"),
        (["--raw", "--udp", "127.0.0.1:1", "--patience", "3"], "--patience is of --zmq and --shm"),
    ],
)
def test_senders_options_that_do_not_fit(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert send.main(arguments) == 2
    assert reason in capsys.readouterr().err


def test_separate_roll_offs_shorten_a_slot() -> None:
    narrow = Settings(grid="64x32", rolloff=0.1, doppler_rolloff=0.2)
    assert slot(narrow).seconds < 0.8 * slot(LINK).seconds


@pytest.mark.parametrize("oversampling", [2, 3])
def test_a_capture_of_another_frequency_is_another_stream(
    tmp_path: Path, oversampling: int
) -> None:
    """The radio was tuned to another frequency, where it is as far off as before the other way."""
    rate = oversampling * LINK.bandwidth
    parts, notes, starts = [], [], []
    for carrier, dc in ((3000.0, 0.3), (-3000.0, -0.3)):
        given = Impairments(snr_db=25.0, carrier_hz=carrier, dc=dc)
        made = Simulation(LINK, SEED, impairments=given, oversampling=oversampling)
        first = sum(map(len, parts))
        parts.append(np.concatenate(list(made.pieces(range(COUNT)))))
        starts.append(first)
        notes += [
            {"core:sample_start": first + at, "otfs:seed": SEED, "otfs:frame": frame}
            for frame, at in enumerate(made.starts(COUNT))
        ]
    np.concatenate(parts).astype("<c8").tofile(tmp_path / "air.sigmf-data")
    captures = [
        {"core:sample_start": at, "core:frequency": 1e9 * (1 + index)}
        for index, at in enumerate(starts)
    ]
    meta = {"global": {"core:datatype": "cf32_le", "core:sample_rate": rate},
            "captures": captures, "annotations": notes}  # fmt: skip
    (tmp_path / "air.sigmf-meta").write_text(json.dumps(meta))
    opened = opening.open_recording(str(tmp_path / "air.sigmf-meta"), "", "", LINK, True)
    raw = Raw(LINK, opened.rate)
    found = list(raw.frames(opened.waveform(LINK), Counts()))
    carriers = [one.carrier_hz for one in found]
    np.testing.assert_allclose(carriers, COUNT * [3000] + COUNT * [-3000], atol=LINK.nu_max)
    rates = wrong(found)
    assert len(rates) == 2 * COUNT and np.mean(rates) < 2e-2
    report = raw.report()
    assert (report["locks"], report["jumps"], report["damaged"]) == (2, 0, 0)
    assert report["samples"] == sum(map(len, parts))
