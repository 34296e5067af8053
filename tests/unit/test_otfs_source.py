"""Sources of frames, SigMF recordings and the run driver on a stand-in session."""

from __future__ import annotations

import json
import threading
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sigmf

from foundryrt.errors import FoundryError, UsageError
from foundryrt.host.pipeline import HostPipeline
from otfs_pipeline import run
from otfs_pipeline.frames import feed, opening, source, writing
from otfs_pipeline.link import frame, qam, reference
from otfs_pipeline.settings import Settings

LINK = Settings(grid="64x32")


class ReferenceSession:
    """A session whose one graph is the numpy receiver."""

    def __init__(self) -> None:
        self.settings = asdict(LINK)
        self.samples = np.zeros(LINK.q, np.complex64)
        count = frame.data_symbols(LINK)
        self.results = {
            "bits": np.zeros((count, 4), np.uint8),
            "llr": np.zeros((count, 4), np.float32),
            "symbols": np.zeros(count, np.complex64),
            "variance": np.zeros((), np.float32),
            "evm": np.zeros((), np.float32),
        }

    def tensor(self, name: str) -> None:
        """As a graph's; the numpy receiver says all that `power` stands for and is needed here."""

    def graph(self, name: str) -> ReferenceSession:
        if name != "receive":
            raise UsageError(f"no graph {name}")
        return self

    def pipeline(
        self, inputs: tuple[str], outputs: tuple[str, ...], depth: int, lazy: tuple[str, ...]
    ) -> HostPipeline:
        assert set(lazy) <= set(outputs)
        assert inputs == ("samples",)
        wanted = {name: self.results[name] for name in outputs}
        return HostPipeline(self.launch, nullcontext(), {"samples": self.samples}, wanted, depth)

    def launch(self) -> None:
        if not self.samples.any() or not np.isfinite(self.samples).all():
            self.results["variance"][...] = np.nan
            return
        got = reference.receive(self.samples.astype(np.complex128), LINK)
        levels = qam.amplitudes(LINK.modulation)
        axes = got.symbols.view(np.float64)
        beside = np.abs(axes[:, None] - levels).min(axis=1)
        self.results["evm"][...] = np.sqrt(2 * np.mean(beside**2))
        for name in ("bits", "llr", "symbols", "variance"):
            self.results[name][...] = getattr(got, name)


def record(folder: Path, datatype: str = "cf32_le", count: int = 3) -> Path:
    frames = list(source.synthetic(LINK, 25.0, 7, count))
    writing.write_recording(str(folder / "link"), frames, LINK, 7, datatype)
    return folder / "link.sigmf-data"


def test_simulated_frames_are_reproducible_and_differ() -> None:
    one, two = (list(source.synthetic(LINK, 20.0, 5, 2)) for _ in range(2))
    np.testing.assert_array_equal(one[1].samples, two[1].samples)
    np.testing.assert_array_equal(one[1].bits, two[1].bits)
    assert (one[0].samples != one[1].samples).any()
    power = np.mean([np.mean(np.abs(f.samples) ** 2) for f in source.synthetic(LINK, 0.0, 1, 20)])
    # Frame energy: a symbol a bin (pilot = guard strip), plus noise of the same power.
    assert power == pytest.approx(2, abs=0.3)


def test_a_pool_that_is_left_makes_no_more_frames() -> None:
    made = []

    def make(index: int) -> source.Frame:
        made.append(index)
        time.sleep(0.01)
        return source.Frame(np.zeros(1, np.complex64), source.UNKNOWN)

    pool = source.pool(make, 1000)
    next(pool)
    pool.close()
    assert len(made) < 500


@pytest.mark.parametrize("datatype", ["cf32_le", "ci16_le"])
def test_sigmf_reads_what_was_written(tmp_path: Path, datatype: str) -> None:
    data = record(tmp_path, datatype)
    sent = np.concatenate([f.samples for f in source.synthetic(LINK, 25.0, 7, 3)])
    read = sigmf.fromfile(str(data.with_suffix(".sigmf-meta")))
    read.validate()
    assert read.get_global_info()["core:sample_rate"] == LINK.bandwidth
    notes = read.get_annotations()
    assert [n["core:sample_start"] for n in notes] == [0, LINK.q, 2 * LINK.q]
    assert notes[2]["otfs:frame"] == 2
    scale = np.abs(sent.view(np.float32)).max() * 2 if datatype == "ci16_le" else 1
    np.testing.assert_allclose(read.read_samples() * scale, sent, atol=scale * 2e-4)
    ours = opening.open_recording(str(data), "", "", LINK)
    frames = list(ours.frames(LINK))
    assert len(frames) == ours.count(LINK) == 3
    got = np.concatenate([f.samples for f in frames])
    np.testing.assert_allclose(got * scale, sent, atol=scale * 2e-4)
    np.testing.assert_array_equal(
        frames[1].bits,
        next(f.bits for i, f in enumerate(source.synthetic(LINK, 25.0, 7, 3)) if i == 1),
    )


@pytest.mark.parametrize("datatype", ["cf32_le", "ci16_le"])
def test_a_replayed_recording_has_the_ber_of_the_live_run(tmp_path: Path, datatype: str) -> None:
    live = run.run(ReferenceSession(), run.Options(frames=3, snr=25.0, seed=7), json=True)
    replay = run.run(ReferenceSession(), run.Options(iq=str(record(tmp_path, datatype))), json=True)
    assert replay["ber_frames"] == 3
    assert replay["ber"] == pytest.approx(live["ber"], rel=0.1, abs=1e-4)
    json.dumps(replay)


@pytest.mark.parametrize("pace", [False, True])
def test_a_recording_read_ahead_counts_from_its_time_only_when_paced(
    tmp_path: Path, pace: bool
) -> None:
    options = run.Options(iq=str(record(tmp_path)), pace=pace)
    opened = feed.open_feed(LINK, options, threading.Event(), lambda: np.zeros(LINK.q, "c8"))
    ready = [item.ready for item in opened.frames if item]
    opened.close()
    assert len(ready) == 3
    assert all(ready) if pace else not any(ready)


def test_broken_frames_are_counted_and_the_stream_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = record(tmp_path, count=4)
    samples = np.fromfile(data, dtype=np.complex64)
    samples[LINK.q + 5] = np.nan
    samples[2 * LINK.q + 1] = np.inf
    samples[:-3].tofile(data)
    result = run.run(ReferenceSession(), run.Options(iq=str(data)), json=False)
    assert result["frames"] == 1
    assert result["skipped"] == {"wrong_length": 1, "not_finite": 2}
    assert "1 of wrong length and 2 not finite skipped" in capsys.readouterr().out
    some = run.run(ReferenceSession(), run.Options(iq=str(data), max_frames=1), json=True)
    assert (some["frames"], some["skipped"]["not_finite"]) == (1, 0)


def test_raw_files_need_a_datatype(tmp_path: Path) -> None:
    raw = tmp_path / "capture.raw"
    frames = list(source.synthetic(LINK, 25.0, 7, 2))
    np.concatenate([f.samples for f in frames]).tofile(raw)
    with pytest.raises(UsageError, match="--datatype cf32_le or ci16_le"):
        opening.open_recording(str(raw), "", "", LINK)
    result = run.run(ReferenceSession(), run.Options(iq=str(raw), datatype="cf32_le"), json=True)
    assert (result["frames"], result["ber"]) == (2, None)


def test_recordings_that_cannot_be_received(tmp_path: Path) -> None:
    data = record(tmp_path)
    meta = data.with_suffix(".sigmf-meta")
    with pytest.raises(UsageError, match="does not exist"):
        opening.open_recording(str(tmp_path / "none.raw"), "", "cf32_le", LINK)
    with pytest.raises(UsageError, match="--metadata"):
        opening.open_recording(str(data), str(tmp_path / "none"), "", LINK)
    with pytest.raises(FoundryError, match="samples a second"):
        opening.open_recording(str(data), "", "", Settings(grid="128x32"))
    with pytest.raises(FoundryError, match="sent with modulation 16"):
        opening.open_recording(str(meta), "", "", Settings(grid="64x32", modulation=4))
    for damaged in (
        "{",
        "[]",
        '{"global": 3}',
        '{"captures": []}',
        '{"global": {"core:sample_rate": "x"}}',
        '{"global": {"core:sample_rate": 1' + 400 * "0" + "}}",
        100_000 * "[",
    ):
        meta.write_text(damaged)
        with pytest.raises(FoundryError, match="no SigMF"):
            opening.open_recording(str(data), "", "", LINK)
    meta.unlink()
    np.full(LINK.q, np.nan, np.complex64).tofile(data)
    with pytest.raises(FoundryError, match="no frame could be received: 0 of wrong length, 1"):
        run.run(ReferenceSession(), run.Options(iq=str(data), datatype="cf32_le"), json=True)


@pytest.mark.parametrize(
    "annotation",
    [
        {"otfs:seed": "x", "otfs:frame": 0, "core:sample_start": 0},
        {"otfs:seed": 1, "otfs:frame": 0},
        {"otfs:seed": -1, "otfs:frame": 0, "core:sample_start": 0},
    ],
)
def test_annotations_that_make_no_sense(tmp_path: Path, annotation: dict[str, Any]) -> None:
    data = record(tmp_path)
    meta = data.with_suffix(".sigmf-meta")
    document = json.loads(meta.read_text())
    document["annotations"] = [annotation]
    meta.write_text(json.dumps(document))
    with pytest.raises(FoundryError, match="annotation"):
        opening.open_recording(str(data), "", "", LINK)


def test_plots_are_png_files(tmp_path: Path) -> None:
    points, times = tmp_path / "points.png", tmp_path / "times.png"
    options = run.Options(frames=2, constellation=str(points), latency_plot=str(times))
    run.run(ReferenceSession(), options, json=True)
    for path in (points, times):
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


def test_plots_without_matplotlib_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    options = run.Options(frames=1, constellation="points.png")
    with pytest.raises(FoundryError, match="pip install"):
        run.run(ReferenceSession(), options, json=True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"frames": 0}, "--frames"),
        ({"snr": float("nan")}, "--snr"),
        ({"seed": -1}, "--seed"),
        ({"datatype": "cf32_le"}, "needs --iq"),
        ({"constellation": "/no/such/folder/a.png"}, "no such folder"),
    ],
)
def test_options_that_cannot_work(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        run.Options(**changes)
