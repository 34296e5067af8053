"""The samples that the front end still needs, by their absolute index."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

PIECE = 1 << 16
"""Samples that are taken at once: other threads wait meanwhile."""
_SHOWN = 1 << 18
"""Samples that are shown at once: what looks at them may take as long for few."""


class Buffer:
    """A window on an endless stream of complex64 samples: appended at the end, dropped in front.

    `take` gives arrays of `shape`, [capacity] or [capacity, antennas], one at first. When the space
    in one is used up, what is held is moved to the front of the next: the same one by default.
    `put` is shown what of them has been filled, part by part.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        take: Callable[[], np.ndarray] | None = None,
        put: Callable[[np.ndarray], None] = lambda _: None,
    ) -> None:
        own = np.zeros((0,) if take else shape, np.complex64)
        self._take = take or (lambda: own)
        self._put = put
        self._samples = self._take()
        self._first = self._at = self._count = self._shown = 0
        self._lost: deque[tuple[int, int]] = deque()

    @property
    def end(self) -> int:
        """The index after the last sample."""
        return self._first + self._count

    def space(self) -> np.ndarray:
        """Where the next samples are to be put; then `append` counts them."""
        if self._at + self._count == len(self._samples):
            self._move()
        return self._samples[self._at + self._count :][:PIECE]

    def append(self, count: int) -> None:
        """So many samples have been put into `space`."""
        self._count += count
        if self._at + self._count - self._shown >= _SHOWN:
            self.show()

    def show(self) -> None:
        """Have `put` see all that is held."""
        end = self._at + self._count
        if end > self._shown:
            self._put(self._samples[self._shown : end])
        self._shown = end

    def drop(self, before: int, coming: int) -> None:
        """Forget the samples before an index, which is none that is yet to come.

        From there on `coming` samples are wanted next: where they have no space any more, what is
        held, which is little, is moved now.
        """
        gone = min(max(before - self._first, 0), self._count)
        self._first, self._at, self._count = self._first + gone, self._at + gone, self._count - gone
        if self._at and self._at + coming > len(self._samples):
            self._move()
        while self._lost and self._lost[0][1] <= self._first:
            self._lost.popleft()

    def _move(self) -> None:
        held, self._samples = self._samples[self._at :][: self._count], self._take()
        self._samples[: self._count] = held
        self._at = self._shown = 0

    def view(self, begin: int, end: int) -> np.ndarray:
        """Samples begin to end-1, all of which are held.

        Valid until the next `drop` or `space`; longer where `take` gives another array.
        """
        at = self._at - self._first
        return self._samples[begin + at : end + at]

    def lose(self, begin: int, end: int) -> None:
        """Samples begin to end-1, which have not been appended yet, stand for lost ones."""
        self._lost.append((begin, end))

    def lost(self, begin: int, end: int) -> bool:
        """Whether some of the samples begin to end-1 were lost."""
        return any(first < end and last > begin for first, last in self._lost)
