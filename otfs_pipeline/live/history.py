"""A run over time in a bounded number of intervals, which grow with the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

MOST = 240
"""Intervals; twice as long ones take their place when there would be more."""
_FIRST_SECONDS = 0.25


@dataclass
class Interval:
    """Sums over the frames of an interval; `snr_frames` are those that have an SNR."""

    frames: int = 0
    snr_frames: int = 0
    snr_db: float = 0.0
    equalized_snr_db: float = 0.0
    snr_least: float = math.inf
    snr_most: float = -math.inf
    compared: int = 0
    bit_errors: int = 0
    uncoded_compared: int = 0
    uncoded_bit_errors: int = 0
    crc_failed: int = 0

    def take(self, entry: Mapping[str, Any]) -> None:
        """Count a frame."""
        self.frames += 1
        snr, after = entry["snr_db"], entry["equalized_snr_db"]
        if snr is not None and after is not None:
            self.snr_frames += 1
            self.snr_db += snr
            self.equalized_snr_db += after
            self.snr_least, self.snr_most = min(self.snr_least, snr), max(self.snr_most, snr)
        if entry["bit_errors"] is not None:
            self.compared += 1
            self.bit_errors += entry["bit_errors"]
        if entry.get("uncoded_bit_errors") is not None:
            self.uncoded_compared += 1
            self.uncoded_bit_errors += entry["uncoded_bit_errors"]
        self.crc_failed += not entry.get("crc", True)

    def merged(self, other: Interval) -> Interval:
        """Both as one."""
        join = {"snr_least": min, "snr_most": max}
        return Interval(*(
            join.get(field.name, lambda one, two: one + two)(
                getattr(self, field.name), getattr(other, field.name)
            )
            for field in fields(Interval)
        ))  # fmt: skip


class History:
    """Interval i is from i to i+1 times `seconds` after the start."""

    def __init__(self) -> None:
        self.seconds = _FIRST_SECONDS
        self.intervals: list[Interval] = []

    def take(self, at: float, entry: Mapping[str, Any]) -> None:
        """Count a frame `at` seconds after the start, 0 or more."""
        while at >= MOST * self.seconds:
            self._double()
        place = int(at / self.seconds)
        self.intervals += [Interval() for _ in range(place + 1 - len(self.intervals))]
        self.intervals[place].take(entry)

    def _double(self) -> None:
        odd = [Interval()] * (len(self.intervals) % 2)
        both = iter([*self.intervals, *odd])
        self.intervals = [one.merged(two) for one, two in zip(both, both, strict=True)]
        self.seconds *= 2

    def columns(self, bits: int, coded_bits: int) -> dict[str, list[float | None]]:
        """What is drawn, by interval; None where an interval has no such frame.

        `bits` and `coded_bits` are those of a frame. `t` is an interval's middle in seconds.
        """
        kept = [(i, one) for i, one in enumerate(self.intervals) if one.frames]

        def each(total: str, count: str, of: int = 1) -> list[float | None]:
            return [
                getattr(one, total) / (getattr(one, count) * of) if getattr(one, count) else None
                for _, one in kept
            ]

        return {
            "t": [(i + 0.5) * self.seconds for i, _ in kept],
            "snr": each("snr_db", "snr_frames"),
            "equalized": each("equalized_snr_db", "snr_frames"),
            "least": [one.snr_least if one.snr_frames else None for _, one in kept],
            "most": [one.snr_most if one.snr_frames else None for _, one in kept],
            "ber": each("bit_errors", "compared", bits),
            "bits": [one.compared * bits for _, one in kept],
            "uncoded": each("uncoded_bit_errors", "uncoded_compared", coded_bits),
            "fer": each("crc_failed", "frames"),
        }
