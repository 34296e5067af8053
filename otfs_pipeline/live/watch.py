"""What the receiver's threads leave for the page: an entry a frame, and now and then a sample.

They wait for nobody and compute nothing here; everything is looked at in the page's own thread.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np

from otfs_pipeline.frames.source import Frame
from otfs_pipeline.live.channel import strip
from otfs_pipeline.live.spectrum import segment_length, segments
from otfs_pipeline.settings import Settings

SYMBOLS = 2048
"""Of a sampled frame, at most."""
_SEGMENTS = 64


@dataclass(frozen=True)
class Sample:
    """Its entry, and copies of parts: symbols [S], of A antennas strip and segments of samples.

    strip [A, N, W], segments [A, P, L]
    """

    entry: dict[str, Any]

    symbols: np.ndarray
    strip: np.ndarray
    segments: np.ndarray


class Watch:
    """`entries` has each frame's time (time.perf_counter) and entry of `Conditions`.

    `sample` and `waveform` are the last ones that were taken after `want`. The waveform, [A, P, L],
    is of what the front end takes, where there is one.
    """

    def __init__(self, settings: Settings) -> None:
        self.entries = SimpleQueue[tuple[float, dict[str, Any]]]()
        self.sample: Sample | None = None
        self.waveform: np.ndarray | None = None
        self._settings = settings
        self._length = segment_length(settings.q)
        self._wanted = self._waveform_wanted = False
        self._pieces: list[np.ndarray] = []

    def want(self) -> None:
        """Have the next frame sampled, and the next samples of the waveform."""
        self._wanted = self._waveform_wanted = True

    def take(self, frame: Frame, outputs: Mapping[str, np.ndarray], entry: dict[str, Any]) -> None:
        """A frame was received; called by the thread of the results."""
        self.entries.put((time.perf_counter(), entry))
        if not self._wanted:
            return
        self._wanted = False
        symbols, samples = outputs["symbols"], outputs.get("frame", frame.samples)
        samples = samples.reshape(-1, self._settings.q)
        # No whole number of bins apart: a step that divides N would see few Dopplers.
        some = np.linspace(0, symbols.size - 1, min(SYMBOLS, symbols.size)).astype(np.intp)
        self.sample = Sample(
            entry,
            symbols[some],
            strip(samples, self._settings),
            segments(samples, self._length, _SEGMENTS),
        )

    def show(self, samples: np.ndarray) -> None:
        """Samples of the waveform in turn, [S] or [antennas, S]; by the thread of the source."""
        if not self._waveform_wanted:
            return
        samples = np.atleast_2d(samples)
        missing = _SEGMENTS * self._length - sum(piece.shape[1] for piece in self._pieces)
        self._pieces.append(samples[:, :missing].copy())
        if samples.shape[1] >= missing:
            whole = np.concatenate(self._pieces, axis=1)
            self.waveform = whole.reshape(len(whole), _SEGMENTS, self._length)
            self._pieces, self._waveform_wanted = [], False
