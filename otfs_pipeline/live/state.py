"""What the page shows: the run's own counts, and what is made of what its threads left."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np

from otfs_pipeline.frames.feed import Feed
from otfs_pipeline.frames.results import Results
from otfs_pipeline.frames.stream import Tally
from otfs_pipeline.front import OVERSAMPLING
from otfs_pipeline.link import frame, qam
from otfs_pipeline.live.channel import gains, narrowed, threshold
from otfs_pipeline.live.history import History
from otfs_pipeline.live.latency import Latencies
from otfs_pipeline.live.metrics import Metrics
from otfs_pipeline.live.spectrum import density
from otfs_pipeline.live.watch import Sample, Watch
from otfs_pipeline.settings import Settings

KEPT = 2048
"""Entries that are kept for /frames, the last ones."""
_TABLE = 10
_COLUMNS = 256
_BARS = 60
# Of a new spectrum in the mean that is shown.
_WEIGHT = 0.3


class State:
    """One run. The run's threads use `watch` and `follow`, the page's thread all else."""

    def __init__(self, settings: Settings, period: float) -> None:
        self.watch = Watch(settings)
        self.recent: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._settings = settings
        self._bits, self._coded_bits = frame.payload_bits(settings), frame.coded_bits(settings)
        self._feed: Feed | None = None
        self._results: Results | None = None
        self._tally = Tally()
        self._began: float | None = None
        self._history = History()
        self._latencies = Latencies(period * 1e3)
        self._taken: np.ndarray | None = None
        self._spectrum: np.ndarray | None = None
        self._metrics = Metrics(self.losses, period)

    def follow(self, feed: Feed, results: Results, tally: Tally) -> None:
        """The stream begins: these are looked at from now on, and not changed."""
        if feed.raw:
            feed.raw.watch = self.watch.show
        self._results, self._tally, self._feed = results, tally, feed
        self._began = time.perf_counter()

    def drain(self) -> None:
        """Count what has come since the last time."""
        while not self.watch.entries.empty():
            at, entry = self.watch.entries.get()
            self.recent.append(entry)
            self._history.take(at - (self._began or at), entry)
            self._metrics.take(entry, self._bits)
        news = self._tally.milliseconds[self._latencies.frames :]
        self._latencies.take(news)
        self._metrics.took(news)

    def metrics(self) -> bytes:
        """In Prometheus' format."""
        self.drain()
        return self._metrics.page()

    def losses(self) -> dict[str, int]:
        """Frames that gave no results, by the reason."""
        feed = self._feed
        before = feed.report() if feed else {}
        return {
            **{name: before.get(name, 0) for name in ("dropped", "lost", "malformed")},
            "damaged": feed.raw.report()["damaged"] if feed and feed.raw else 0,
            "wrong_length": self._tally.wrong_length,
            "not_finite": self._tally.not_finite,
        }

    def snapshot(self, ended: bool) -> dict[str, Any]:
        """For the page, as JSON; arrays are bytes of float32.

        Channel and spectrum have lists with one of each antenna.
        """
        self.drain()
        sample = self.watch.sample
        return {
            "ended": ended,
            "seconds": None if self._began is None else time.perf_counter() - self._began,
            "link": self._link(),
            "totals": self._totals(),
            "frames": list(self.recent)[-_TABLE:],
            "constellation": sample and self._constellation(sample),
            "channel": sample and self._channel(sample),
            "spectrum": self._density(sample),
            "history": self._history.columns(self._bits, self._coded_bits),
            "latency": self._latency(),
        }

    def _link(self) -> dict[str, Any]:
        s = self._settings
        return {
            "grid": s.grid,
            "modulation": s.modulation,
            "code_rate": s.code_rate,
            "iterations": s.cg_iterations,
            "antennas": s.antennas,
            "bandwidth_hz": s.bandwidth,
            "source": self._feed.name if self._feed else "",
            "raw": bool(self._feed and self._feed.raw),
        }

    def _totals(self) -> dict[str, Any]:
        results, tally = self._results, self._tally
        totals: dict[str, Any] = {"frames": tally.frames, "losses": self.losses()}
        if results is None or results.conditions is None:
            return totals
        coding = results.coding
        delivered = tally.frames - (coding.frame_errors if coding else 0)
        arrived = tally.frames + totals["losses"]["dropped"]
        return totals | {
            "good": results.conditions.good,
            "flags": dict(results.conditions.flags),
            "bits": results.payload.bits,
            "bit_errors": results.payload.wrong,
            "coding": {
                "blocks": coding.blocks,
                "block_errors": coding.block_errors,
                "frame_errors": coding.frame_errors,
                "uncoded_ber": coding.uncoded.rate,
            } if coding else None,
            "mbps": self._bits * delivered / tally.seconds / 1e6 if tally.seconds else None,
            "missed": self._latencies.missed,
            "on_time": (tally.frames - self._latencies.missed) / arrived if arrived else None,
            "front_end": self._feed.raw.report() if self._feed and self._feed.raw else None,
        }  # fmt: skip

    def _constellation(self, sample: Sample) -> dict[str, Any]:
        levels = np.sort(qam.amplitudes(self._settings.modulation))
        return {
            "frame": sample.entry["frame"],
            "evm_percent": sample.entry["evm_percent"],
            "levels": levels.tolist(),
            "symbols": _packed(sample.symbols.view(np.float32)),
        }

    def _channel(self, sample: Sample) -> dict[str, Any]:
        s = self._settings
        shown, each = narrowed(gains(sample.strip, s), _COLUMNS)
        step = s.doppler_step / s.frame_seconds
        kept = threshold(np.atleast_1d(sample.entry["noise_variance"]), s)
        return {
            "rows": shown.shape[1],
            "columns": shown.shape[2],
            "delay_us": [s.first_tap / s.bandwidth * 1e6, each / s.bandwidth * 1e6],
            "doppler_hz": [-s.doppler_range * step, step],
            "threshold_db": _decibels(kept).tolist(),
            "db": [_packed(antenna) for antenna in _decibels(shown)],
        }

    def _density(self, sample: Sample | None) -> dict[str, Any] | None:
        raw = self._feed is not None and self._feed.raw is not None
        frames = None if sample is None else sample.segments
        taken = self.watch.waveform if raw else frames
        if taken is None:
            return None
        rate = self._settings.bandwidth * (OVERSAMPLING if raw else 1)
        if self._spectrum is None:
            self._spectrum = density(taken, rate)
        elif taken is not self._taken:
            self._spectrum += _WEIGHT * (density(taken, rate) - self._spectrum)
        self._taken = taken
        each = [_packed(antenna) for antenna in _decibels(self._spectrum)]
        return {"rate_hz": rate, "db": each}

    def _latency(self) -> dict[str, Any]:
        edges, counts = self._latencies.bars(_BARS)
        return {
            "edges": edges,
            "counts": counts,
            "deadline": self._latencies.deadline,
            "p50": self._latencies.percentile(50),
            "p99": self._latencies.percentile(99),
            "p99_9": self._latencies.percentile(99.9),
            "max": self._latencies.most,
        }


def _decibels(ratio: np.ndarray) -> np.ndarray:
    return np.asarray(10 * np.log10(np.maximum(ratio, 1e-30)))


def _packed(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values, "<f4").tobytes()
