"""The header of a frame from a sender, over ZeroMQ or shared memory; little-endian.

| bytes | field |
|---|---|
| 4 | `OTFS` |
| 1 | version, 1 |
| 1 | format: 0 cf32_le, 1 ci16_le, 2 ci8, 3 cu8, 255 end of the stream |
| 2 | zero |
| 8 | sequence number, from 0: a gap is a loss in transport |
| 8 | number of complex samples that follow, those of several antennas one after the other |
| 8 | seed of the payload (`transmit.payload`), -1 where it is unknown |
| 8 | index of the payload |
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Protocol

from otfs_pipeline.frames.samples import by_antenna, decode, width
from otfs_pipeline.frames.source import UNKNOWN, Frame, known_coded, known_payload
from otfs_pipeline.settings import Settings

_LAYOUT = struct.Struct("<4sBB2xQQqq")
SIZE = _LAYOUT.size
_MAGIC, _VERSION, _END = b"OTFS", 1, 255
FORMATS = ("cf32_le", "ci16_le", "ci8", "cu8")
"""The formats of samples that a header can name, by their codes."""
# A gap of more frames, which at 500 a second take 50 days, is damage and no loss.
_MAXIMUM_GAP = 1 << 31


@dataclass(frozen=True)
class Header:
    """A sender's description of a frame; `datatype` is empty at the end of the stream."""

    sequence: int
    datatype: str
    samples: int = 0
    seed: int = -1
    index: int = 0

    def pack(self) -> bytes:
        code = FORMATS.index(self.datatype) if self.datatype else _END
        return _LAYOUT.pack(
            _MAGIC, _VERSION, code, self.sequence, self.samples, self.seed, self.index
        )

    @property
    def bytes(self) -> int:
        """Length of the samples that follow."""
        return self.samples * width(self.datatype) if self.datatype else 0


def unpack(data: bytes | memoryview) -> Header | None:
    """The header in `data`, or None where it is no header of this version."""
    if len(data) != SIZE:
        return None
    magic, version, code, sequence, samples, seed, index = _LAYOUT.unpack(data)
    if magic != _MAGIC or version != _VERSION or not (code < len(FORMATS) or code == _END):
        return None
    return Header(sequence, "" if code == _END else FORMATS[code], samples, seed, index)


def uneven(header: Header, settings: Settings) -> str:
    """Why its samples cannot be those of each antenna; empty where they can."""
    if header.samples % settings.antennas == 0:
        return ""
    return f"{header.samples} samples are not as many of each of {settings.antennas} antennas"


def frame(header: Header, data: bytes | memoryview, settings: Settings, ready: float) -> Frame:
    """The frame, or piece of a waveform, `data`, with the payload that the header names.

    It is not `uneven`.
    """
    samples = by_antenna(decode(data, header.datatype), settings.antennas)
    bits = coded = UNKNOWN
    if header.seed >= 0 and header.index >= 0:
        bits = known_payload(header.seed, header.index, settings)
        coded = known_coded(header.seed, header.index, settings)
    return Frame(samples, bits, ready, coded)


class Sender(Protocol):
    """The sending side of a transport."""

    def send(self, header: Header, data: bytes) -> None:
        """Send one frame; waits while the receiver cannot take more."""

    def finish(self, sequence: int) -> None:
        """Say that the stream has ended, after `sequence` frames."""

    def close(self) -> None:
        """Free what the transport holds."""


@dataclass
class Counts:
    """Messages, a frame each, that were damaged or lost between sender and receiver.

    `reason` says why the first of the malformed was; `missing` counts lost samples where messages
    hold samples in any number and say how many.
    """

    malformed: int = 0
    lost: int = 0
    reason: str = ""
    missing: int = 0
    _next: int = 0

    def damaged(self, reason: str) -> None:
        """Count a malformed frame or message."""
        self.malformed += 1
        self.reason = self.reason or reason

    def arrived(self, sequence: int) -> bool:
        """Count the gap before this frame; a sender that restarts leaves none.

        False where the number cannot be right: the frame is malformed.
        """
        gap = sequence - self._next
        if gap > _MAXIMUM_GAP:
            self.damaged(f"sequence number {sequence} after {self._next} frames")
            return False
        self.lost += max(gap, 0)
        self._next = sequence + 1
        return True
