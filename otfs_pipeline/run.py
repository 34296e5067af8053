"""Online side of the workload: frames through the recorded receiver; needs no torch of its own."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foundryrt.errors import FoundryError, UsageError
from otfs_pipeline import frame, plots, source
from otfs_pipeline.metrics import latency_percentiles
from otfs_pipeline.settings import Settings

if TYPE_CHECKING:
    from foundryrt.session import Session

PLOTTED_SYMBOLS = 20_000


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Options:
    """What `foundryrt run` takes for this workload. UsageError where a value cannot work."""

    frames: int = _option(100, "simulated frames, each with a channel of its own")
    snr: float = _option(20.0, "signal-to-noise ratio of the simulated link in dB")
    seed: int = _option(0, "seed of payload, channel and noise")
    iq: str = _option("", "receive this recording (.sigmf-data, .sigmf-meta or raw) instead")
    metadata: str = _option("", "SigMF metadata of --iq, where it is not beside it")
    datatype: str = _option("", "samples of --iq: cf32_le or ci16_le; default: from the metadata")
    max_frames: int = _option(0, "stop --iq after that many frames; 0: never")
    constellation: str = _option("", "write the constellation to this PNG")
    latency_plot: str = _option("", "write the latency histogram to this PNG")

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise UsageError(f"--frames {self.frames}: use 1 or more")
        if self.max_frames < 0 or self.seed < 0:
            raise UsageError("--max-frames and --seed: use 0 or more")
        if not -100 <= self.snr <= 200:
            raise UsageError(f"--snr {self.snr}: use -100 to 200 dB")
        if not self.iq and (self.metadata or self.datatype or self.max_frames):
            raise UsageError("--metadata, --datatype and --max-frames need --iq FILE")
        for path in (self.constellation, self.latency_plot):
            if path and not Path(path).absolute().parent.is_dir():
                raise UsageError(f"plot {path}: there is no such folder")


@dataclass
class _Tally:
    """What the run has seen so far."""

    frames: int = 0
    wrong_length: int = 0
    not_finite: int = 0
    bits: int = 0
    wrong_bits: int = 0
    known_frames: int = 0


def run(session: Session, options: Options, json: bool) -> dict[str, object]:
    """Receive all frames of the source and report; broken frames are counted and skipped."""
    settings = Settings(**session.settings)  # type: ignore[arg-type]
    frames, total = _source(settings, options)
    graph = session.graph("receive")
    tally, milliseconds, symbols = _Tally(), [], np.empty(0, np.complex64)
    # The first launch pays for first-touched memory and plans; it is no frame of the stream.
    session.write("samples", np.zeros(settings.q, np.complex64))
    graph.launch()
    for item in _progress(frames, total):
        if item.samples.shape != (settings.q,):
            tally.wrong_length += 1
            continue
        if not np.isfinite(item.samples).all():
            tally.not_finite += 1
            continue
        start = time.perf_counter()
        session.write("samples", item.samples)
        graph.launch()
        bits = graph.read("bits")
        milliseconds.append((time.perf_counter() - start) * 1e3)
        tally.frames += 1
        if item.bits.size:
            tally.known_frames += 1
            tally.bits += item.bits.size
            tally.wrong_bits += int(np.count_nonzero(bits.reshape(-1) != item.bits))
        if options.constellation and symbols.size < PLOTTED_SYMBOLS:
            symbols = np.concatenate([symbols, graph.read("symbols")])[:PLOTTED_SYMBOLS]
    if not tally.frames:
        raise FoundryError(
            f"no frame could be received: {tally.wrong_length} of wrong length, "
            f"{tally.not_finite} with NaN or infinity; a frame has {settings.q} samples"
        )
    result = _report(settings, options, tally, np.array(milliseconds))
    title = f"{settings.grid}, {settings.modulation}-QAM, {result['source']}"
    if options.constellation:
        plots.constellation(options.constellation, symbols, title)
    if options.latency_plot:
        deadline = settings.frame_seconds * 1e3
        plots.latency(options.latency_plot, np.array(milliseconds), deadline, title)
    if not json:
        _print(result)
    return result


def _source(settings: Settings, options: Options) -> tuple[Iterator[source.Frame], int]:
    if not options.iq:
        frames = source.synthetic(settings, options.snr, options.seed, options.frames)
        return frames, options.frames
    recording = source.open_recording(options.iq, options.metadata, options.datatype, settings)
    count = recording.count(settings)
    total = min(count, options.max_frames or count)
    return itertools.islice(recording.frames(settings), total), total


def _progress(frames: Iterable[source.Frame], total: int) -> Iterable[source.Frame]:
    if not sys.stderr.isatty():
        return frames
    from rich.console import Console
    from rich.progress import track

    return track(frames, "receiving", total=total, console=Console(stderr=True), transient=True)


def _report(
    settings: Settings, options: Options, tally: _Tally, milliseconds: np.ndarray
) -> dict[str, object]:
    simulated = f"Vehicular-A ({settings.gain_model} gains), {options.snr:g} dB"
    payload = frame.payload_bits(settings)
    return {
        "source": options.iq or simulated,
        "grid": settings.grid,
        "modulation": settings.modulation,
        "cg_iterations": settings.iterations,
        "frames": tally.frames,
        "skipped": {"wrong_length": tally.wrong_length, "not_finite": tally.not_finite},
        "ber": tally.wrong_bits / tally.bits if tally.bits else None,
        "ber_frames": tally.known_frames,
        "latency_ms": latency_percentiles(milliseconds),
        "deadline_ms": settings.frame_seconds * 1e3,
        "on_time": float(np.mean(milliseconds <= settings.frame_seconds * 1e3)),
        "payload_bits": payload,
        "payload_mbps": payload / float(np.mean(milliseconds)) / 1e3,
        "air_payload_mbps": payload / settings.frame_seconds / 1e6,
    }


def _print(result: dict[str, Any]) -> None:
    skipped, latency = result["skipped"], result["latency_ms"]
    ber = "unknown payload" if result["ber"] is None else f"{result['ber']:.3e}"
    print(
        f"{result['grid']}, {result['modulation']}-QAM, CG {result['cg_iterations']}, "
        f"{result['source']}\n"
        f"frames      {result['frames']} received, {skipped['wrong_length']} of wrong length and "
        f"{skipped['not_finite']} not finite skipped\n"
        f"BER         {ber} over {result['ber_frames']} frames\n"
        f"latency     p50 {latency['p50']:.2f}  p99 {latency['p99']:.2f}  p99.9 "
        f"{latency['p99_9']:.2f}  max {latency['max']:.2f} ms (frame {result['deadline_ms']:.3f} "
        f"ms, {result['on_time']:.1%} in time)\n"
        f"throughput  {result['payload_mbps']:.2f} Mbps payload (on air "
        f"{result['air_payload_mbps']:.2f})"
    )
