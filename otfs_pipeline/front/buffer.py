"""The samples that the front end still needs, by their absolute index."""

from __future__ import annotations

from collections import deque

import numpy as np

# What is this many times less than what lies before it is little.
_LITTLE = 4


class Buffer:
    """A window on an endless stream of complex64 samples: appended at the end, dropped in front.

    What is held is moved to the front when it is little, or when the space behind it is used up.
    """

    def __init__(self, capacity: int) -> None:
        self._samples = np.zeros(capacity, np.complex64)
        self._first = self._at = self._count = 0
        self._lost: deque[tuple[int, int]] = deque()

    @property
    def end(self) -> int:
        """The index after the last sample."""
        return self._first + self._count

    @property
    def room(self) -> int:
        """Samples that may be appended."""
        return self._samples.size - self._count

    def append(self, samples: np.ndarray) -> None:
        """At most `room` samples."""
        if self._at + self._count + samples.size > self._samples.size:
            self._rewind()
        end = self._at + self._count
        self._samples[end : end + samples.size] = samples
        self._count += samples.size

    def drop(self, before: int) -> None:
        """Forget the samples before an index, which is none that is yet to come."""
        gone = min(max(before - self._first, 0), self._count)
        self._first, self._at, self._count = self._first + gone, self._at + gone, self._count - gone
        # A long move would hold up the frame that comes next.
        if _LITTLE * self._count <= self._at and 4 * self._at >= self._samples.size:
            self._rewind()
        while self._lost and self._lost[0][1] <= self._first:
            self._lost.popleft()

    def _rewind(self) -> None:
        self._samples[: self._count] = self._samples[self._at : self._at + self._count]
        self._at = 0

    def view(self, begin: int, end: int) -> np.ndarray:
        """Samples begin to end-1, all of which are held; valid until the next `append`."""
        at = self._at - self._first
        return self._samples[begin + at : end + at]

    def lose(self, begin: int, end: int) -> None:
        """Samples begin to end-1, which have not been appended yet, stand for lost ones."""
        self._lost.append((begin, end))

    def lost(self, begin: int, end: int) -> bool:
        """Whether some of the samples begin to end-1 were lost."""
        return any(first < end and last > begin for first, last in self._lost)
