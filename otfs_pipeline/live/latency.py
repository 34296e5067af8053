"""Latencies of a run as a histogram of fine, logarithmic bins: bounded, however long the run is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_DECADE = 400
"""Bins a decade: an edge is 0.58 % above the one before."""
_FIRST, _DECADES = 1e-3, 8


class Latencies:
    """In ms, from 1 us to 100 s; what lies outside counts in the first or last bin."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.missed = 0
        self.most = 0.0
        self._counts = np.zeros(_DECADE * _DECADES, np.int64)

    @property
    def frames(self) -> int:
        """Latencies that were taken."""
        return int(self._counts.sum())

    def take(self, milliseconds: Sequence[float]) -> None:
        """Count these."""
        values = np.array(milliseconds, np.float64)
        if not values.size:
            return
        place = np.log10(np.maximum(values, _FIRST) / _FIRST) * _DECADE
        np.add.at(self._counts, np.minimum(place.astype(np.intp), self._counts.size - 1), 1)
        self.missed += int(np.count_nonzero(values > self.deadline))
        self.most = max(self.most, float(values.max()))

    def percentile(self, percent: float) -> float | None:
        """At most 0.6 % above the exact one (the next latency at or over that rank)."""
        total = np.cumsum(self._counts)
        if not total[-1]:
            return None
        place = int(np.searchsorted(total, math.ceil(percent / 100 * total[-1])))
        return min(_edge(place + 1), self.most)

    def bars(self, most: int) -> tuple[list[float], list[int]]:
        """Edges [B+1] in ms and counts [B] of at most `most` bars, over all bins in use."""
        used = np.flatnonzero(self._counts)
        if not used.size:
            return [], []
        each = max(_DECADE // 40, -(-int(used[-1] + 1 - used[0]) // (most - 1)))
        first = int(used[0]) // each * each
        count = -(-int(used[-1] + 1 - first) // each)
        part = self._counts[first : first + count * each]
        sums = np.pad(part, (0, count * each - part.size)).reshape(count, each).sum(axis=1)
        return [_edge(first + i * each) for i in range(count + 1)], sums.tolist()


def _edge(place: int) -> float:
    return float(_FIRST * 10 ** (place / _DECADE))
