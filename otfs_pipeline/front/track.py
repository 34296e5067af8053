"""Where slots lie in a stream of samples off the air: first lock, tracking, relock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from otfs_pipeline.front import OVERSAMPLING
from otfs_pipeline.front.buffer import Buffer
from otfs_pipeline.front.detect import Detector
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.slot import slot

# Symbols by which a preamble may come early or late, beside the delays of a channel that changes.
_SLACK = 4


@dataclass(frozen=True)
class Burst:
    """A frame's samples [end - begin], views that are valid until the tracker goes on.

    The preamble begins about sample `start` of the stream, and the samples at `span[0]` from there.
    `doubtful`: the next preamble was not in its place, so some may be missing. `lost`: some of them
    are known to be. `run` counts locks and jumps: of equal ones slots follow one another.
    """

    samples: np.ndarray
    start: int
    doubtful: bool
    lost: bool
    run: int


class Tracker:
    """Takes a stream at OVERSAMPLING samples a symbol in pieces of any length, gives bursts.

    What it gives depends on the samples alone, and not on the pieces: every step looks at samples
    whose places follow from those before.

    Searching, it looks for a preamble over a slot's length. A burst is given on once the next
    preamble shows that none of its samples is missing. Where that preamble is not found but the
    one after it is, it has faded. A preamble elsewhere is a jump: the bursts before it are
    doubtful.

    A burst's samples are those of `span`: the first and the one after the last that are wanted,
    from where its preamble begins. locks: preambles found by a search; jumps: preambles that came
    elsewhere than expected.
    """

    def __init__(self, settings: Settings, span: tuple[int, int]) -> None:
        self.locks = self.jumps = self.run = 0
        place = slot(settings)
        self.step, self._centre = place.chips * OVERSAMPLING, place.centre * OVERSAMPLING
        self._half = place.half * OVERSAMPLING
        self._detector, self._span = Detector(settings), span
        self._margin = OVERSAMPLING * (settings.delay_taps + _SLACK)
        size = self._detector.size
        # What is looked at, from where a preamble begins: until a burst can be given on, and until
        # it is decided what has happened where the next preamble is not in its place.
        self._near = max(span[1], self.step + size) + self._margin
        self._far = self.step + self._margin + self._near
        self._before = size + self._margin + max(0, -span[0])
        self._buffer = Buffer(self._before + self._far + 2 * self.step)
        # A stream may begin within a preamble, and is looked at from `before` earlier on.
        self._next = self._before
        self._origin = self._before + size // 2
        self._buffer.append(np.zeros(self._origin, np.complex64))
        self._start: int | None = None
        self._limit: int | None = None

    def push(self, samples: np.ndarray) -> Iterator[Burst]:
        """The bursts that these samples complete; [S] complex64."""
        while samples.size:
            piece = samples[: self._buffer.room]
            self._buffer.append(piece)
            samples = samples[piece.size :]
            yield from self._run()

    def lose(self, begin: int, end: int) -> None:
        """Samples begin to end-1 of the stream were lost, and zeros will be pushed in their place.

        Bursts that have some of them are `lost`.
        """
        self._buffer.lose(begin + self._origin, end + self._origin)

    def finish(self) -> Iterator[Burst]:
        """The bursts that are complete at the end of the stream."""
        self._limit = self._buffer.end
        rest = 2 * self._far
        while rest:
            piece = min(rest, self._buffer.room)
            self._buffer.append(np.zeros(piece, np.complex64))
            rest -= piece
            yield from self._run()

    def pending(self) -> tuple[int, np.ndarray] | None:
        """`start` of the burst that is being received, and its samples so far; None in search."""
        if self._start is None:
            return None
        begin, last = self._start + self._span[0], self._start + self._span[1]
        end = min(max(self._buffer.end, begin), last)
        return self._start - self._origin, self._buffer.view(begin, end)

    def _run(self) -> Iterator[Burst]:
        while True:
            if self._start is None:
                if self._buffer.end < self._next + self.step + self._detector.size:
                    return
                self._search()
            elif self._buffer.end < self._start + self._near:
                return
            elif (found := self._in_place(self._start)) is not None:
                yield from self._burst(self._start, False)
                self._start = found
            elif self._buffer.end < self._start + self._far:
                return
            else:
                yield from self._elsewhere(self._start)
            at = self._next if self._start is None else self._start
            self._buffer.drop(at - self._before)

    def _search(self) -> None:
        begin, self._next = self._next, self._next + self.step
        found = self._find(begin, self._next)
        if found is None:
            return
        self.locks += 1
        self.run += 1
        earlier = found - self.step
        if earlier + self._margin > begin:
            # The slot is as long as the search: a preamble at its beginning has a next one here.
            before = self._find(max(begin, earlier - self._margin), earlier + self._margin)
            found = found if before is None else before
        self._start = found

    def _in_place(self, start: int) -> int | None:
        """The next preamble, where it begins about a slot after this one."""
        expected = start + self.step
        return self._find(expected - self._margin, expected + self._margin)

    def _elsewhere(self, start: int) -> Iterator[Burst]:
        """The next preamble is not in its place: it faded, or samples are missing or too many."""
        expected = start + self.step
        found = self._find(start + self._detector.size, expected - self._margin)
        if found is None:
            found = self._find(expected + self._margin, expected + self.step + self._margin)
            if found is not None and found - expected > self.step - 2 * self._margin:
                yield from self._burst(start, False)
                self._start = expected
                return
        yield from self._burst(start, True)
        self._start = found
        if found is None:
            self._next = expected - self._margin
            return
        self.jumps += 1
        self.run += 1
        if found - self.step > start + self.step // 2:
            # The preamble between was lost, though perhaps not its frame.
            yield from self._burst(found - self.step, True)

    def _find(self, begin: int, end: int) -> int | None:
        """The place of a preamble that begins at begin to end-1."""
        at = self._detector.find(self._buffer.view(begin, end + self._detector.size - 1))
        return None if at is None else begin + at

    def _burst(self, start: int, doubtful: bool) -> Iterator[Burst]:
        """The burst whose preamble begins about `start`, unless the stream ends in it."""
        middle = start + self._centre
        if self._limit is not None and middle + self._half > self._limit:
            return
        first, last = self._span
        samples = self._buffer.view(start + first, start + last)
        lost = self._buffer.lost(middle - self._half, middle + self._half)
        # The stream's own first sample comes after what was put before it.
        yield Burst(samples, start - self._origin, doubtful, lost, self.run)
