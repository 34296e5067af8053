"""Recordings of raw samples, read frame by frame or as a waveform."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foundryrt.errors import FoundryError
from otfs_pipeline.frames.intake import undecoded
from otfs_pipeline.frames.samples import by_antenna, decode, width
from otfs_pipeline.frames.source import UNKNOWN, Frame, known_coded, known_payload
from otfs_pipeline.settings import Settings

# Samples of a waveform that are read at once.
_PIECE = 1 << 18


@dataclass(frozen=True)
class Segment:
    """Samples of one capture: where they are in the file, and the index of the first."""

    start: int
    first_byte: int
    bytes: int
    frequency: float | None = None

    def samples(self, each: int) -> int:
        """Whole samples of so many bytes."""
        return self.bytes // each


@dataclass(frozen=True)
class Recording:
    """Interleaved samples in a file; `seeds` gives the known payload of a frame by its start.

    Samples of several channels, an antenna's each, are interleaved too: a sample is one of each.
    `rate` is in samples a second, 0 where it is unknown.
    """

    path: Path
    datatype: str
    segments: tuple[Segment, ...]
    seeds: dict[int, tuple[int, int]] = field(default_factory=dict)
    rate: float = 0.0
    channels: int = 1

    @property
    def sample_bytes(self) -> int:
        """Of a sample of all channels."""
        return self.channels * width(self.datatype)

    def samples(self, data: bytes) -> np.ndarray:
        """Those of a frame [length], of several channels [channels, length]."""
        return by_antenna(decode(data, self.datatype), self.channels, interleaved=True)

    def frames(self, settings: Settings) -> Iterator[Frame]:
        """Frames back to back from the start of each capture; its last one may be short."""
        for known, data in self.pieces(settings):
            bits = known_payload(*known, settings) if known else UNKNOWN
            coded = known_coded(*known, settings) if known else UNKNOWN
            yield Frame(self.samples(data), bits, coded=coded)

    def pieces(self, settings: Settings) -> Iterator[tuple[tuple[int, int] | None, bytes]]:
        """Seed and index of each frame's payload, where they are known, and its bytes."""
        length = settings.q * self.sample_bytes
        for segment in self.segments:
            yield from self._read(segment, [*range(0, segment.bytes, length), segment.bytes])

    def waveform(self, settings: Settings) -> Iterator[Frame]:
        """The samples in pieces, `undecoded`, with the payload of the frame that begins with each.

        A frame begins where its preamble does. A capture of another frequency than the last one
        that has samples and says its own is `retuned`.
        """
        each, tuned = self.sample_bytes, None
        for segment in self.segments:
            retuned = None not in (tuned, segment.frequency) and segment.frequency != tuned
            if segment.bytes and segment.frequency is not None:
                tuned = segment.frequency
            begun = {(start - segment.start) * each for start in self.seeds}
            cuts = {*range(0, segment.bytes, _PIECE * each), segment.bytes}
            cuts |= {cut for cut in begun if 0 <= cut < segment.bytes}
            for known, data in self._read(segment, sorted(cuts)):
                bits = known_payload(*known, settings) if known else UNKNOWN
                coded = known_coded(*known, settings) if known else UNKNOWN
                samples = undecoded(data, self.datatype)
                yield Frame(samples, bits, coded=coded, retuned=retuned)
                retuned = False

    def _read(
        self, segment: Segment, cuts: list[int]
    ) -> Iterator[tuple[tuple[int, int] | None, bytes]]:
        """The pieces of a segment between `cuts`, in bytes, and the payloads that begin there."""
        try:
            with self.path.open("rb") as file:
                file.seek(segment.first_byte)
                for begin, end in itertools.pairwise(cuts):
                    start = segment.start + begin // self.sample_bytes
                    yield self.seeds.get(start), file.read(end - begin)
        except OSError as error:
            raise FoundryError(f"recording {self.path}: {error.strerror}") from error

    def count(self, settings: Settings) -> int:
        """Frames in the file, partial last ones of captures included."""
        length = settings.q * self.sample_bytes
        return sum(-(-segment.bytes // length) for segment in self.segments)

    def slots(self, samples: float) -> int:
        """Whole slots of so many samples in the file."""
        return sum(int(s.samples(self.sample_bytes) // samples) for s in self.segments)

    def captures(self) -> list[dict[str, Any]]:
        """For the report: start in samples, samples and frequency in Hz of each capture."""
        return [
            {
                "sample_start": segment.start,
                "samples": segment.samples(self.sample_bytes),
                "frequency_hz": segment.frequency,
            }
            for segment in self.segments
        ]
