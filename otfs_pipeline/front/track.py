"""Where slots lie in a stream of samples off the air: first lock, tracking, relock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from otfs_pipeline.front import OVERSAMPLING
from otfs_pipeline.front.buffer import Buffer
from otfs_pipeline.front.detect import Detector
from otfs_pipeline.front.reach import Reach
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.slot import slot


@dataclass(frozen=True)
class Burst:
    """A frame's samples [end - begin], views that are valid as long as `Buffer.view`'s; of several
    antennas [end - begin, antennas].

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
    from where its preamble begins; they lie in arrays that `take` gives and `put` is shown (see
    `Buffer`). locks: preambles found by a search; jumps: preambles that came elsewhere than
    expected. Of preambles that are not where the one before says, those whose carrier is off by
    more than half a Doppler period are passed over, for their frames would be turned by one;
    `far_carrier` is the last one's offset in Hz.
    """

    def __init__(
        self,
        settings: Settings,
        span: tuple[int, int],
        take: Callable[[], np.ndarray] | None = None,
        put: Callable[[np.ndarray], None] = lambda _: None,
    ) -> None:
        self.locks = self.jumps = self.run = 0
        self.far_carrier: float | None = None
        self._widest = settings.nu_p / 2
        place, reach = slot(settings), Reach.of(settings, span)
        self.step, self._reach = reach.step, reach
        self._centre, self._half = place.centre * OVERSAMPLING, place.half * OVERSAMPLING
        self._detector, self._span = Detector(settings), span
        self._shape, self._memory = settings.stream_shape(reach.capacity), (take, put)
        # Memory and threads of searches are there before a slot comes.
        for places in (2 * reach.margin, self.step):
            shape = settings.stream_shape(places + reach.size - 1)
            self._detector.find(np.zeros(shape, np.complex64))
        self.restart()

    def restart(self) -> None:
        """Take another stream, from its first sample; counts go on."""
        reach = self._reach
        self._buffer = Buffer(self._shape, *self._memory)
        # A stream may begin within a preamble, and is looked at from `before` earlier on.
        self._next = reach.before
        self._origin = self._next + reach.size // 2
        for _ in self._silence(self._origin):
            pass
        self._start: int | None = None
        # The burst whose next preamble is not in its place.
        self._alone: int | None = None
        self._limit: int | None = None

    @property
    def margin(self) -> int:
        """Samples by which a preamble, or a pilot after one, may come early or late."""
        return self._reach.margin

    def push(self, samples: np.ndarray) -> Iterator[Burst]:
        """The bursts that these samples complete; complex64 as `Settings.stream_shape`."""
        while len(samples):
            space = self.space()[: len(samples)]
            space[:] = samples[: len(space)]
            samples = samples[len(space) :]
            yield from self.took(len(space))

    def space(self) -> np.ndarray:
        """Where samples of the stream can be put, instead of pushed; some of them at least.

        No more than it waits for: a burst is given on before what comes next is taken.
        """
        return self._buffer.space()[: self._awaited() - self._buffer.end]

    def took(self, count: int) -> Iterable[Burst]:
        """The bursts that so many samples complete, which have been put into `space`."""
        self._buffer.append(count)
        return self._run() if self._buffer.end >= self._awaited() else ()

    def lose(self, begin: int, end: int) -> None:
        """Samples begin to end-1 of the stream were lost, and zeros will be pushed in their place.

        Bursts that have some of them are `lost`.
        """
        self._buffer.lose(begin + self._origin, end + self._origin)

    def finish(self) -> Iterator[Burst]:
        """The bursts that are complete at the end of the stream."""
        self._limit = self._buffer.end
        for _ in self._silence(2 * self._reach.far):
            yield from self._run()

    def _silence(self, count: int) -> Iterator[None]:
        """Append so many zeros, in parts."""
        while count:
            space = self._buffer.space()[:count]
            space[:] = 0
            self._buffer.append(len(space))
            count -= len(space)
            yield

    def _awaited(self) -> int:
        """The end of what the next step looks at."""
        reach = self._reach
        if self._start is None:
            return self._next + self.step + reach.size
        return self._start + (reach.far if self._alone == self._start else reach.near)

    def _run(self) -> Iterator[Burst]:
        reach = self._reach
        while self._buffer.end >= self._awaited():
            self._buffer.show()
            if self._start is None:
                self._search()
            elif self._alone == self._start:
                yield from self._elsewhere(self._start)
            elif (found := self._in_place(self._start)) is None:
                self._alone = self._start
            else:
                yield from self._burst(self._start, False)
                self._start = found
            at = self._next if self._start is None else self._start
            self._buffer.drop(at - reach.before, reach.before + reach.near)

    def _search(self) -> None:
        begin, self._next = self._next, self._next + self.step
        found = self._find_near(begin, self._next)
        if found is None:
            return
        self.locks += 1
        self.run += 1
        earlier, margin = found - self.step, self._reach.margin
        if earlier + margin > begin:
            # The slot is as long as the search: a preamble at its beginning has a next one here.
            before = self._find(max(begin, earlier - margin), earlier + margin)
            found = found if before is None else before
        self._start = found

    def _in_place(self, start: int) -> int | None:
        """The next preamble, where it begins about a slot after this one."""
        expected, margin = start + self.step, self._reach.margin
        return self._find(expected - margin, expected + margin)

    def _elsewhere(self, start: int) -> Iterator[Burst]:
        """The next preamble is not in its place: it faded, or samples are missing or too many."""
        expected, margin = start + self.step, self._reach.margin
        found = self._find_near(start + self._reach.size, expected - margin)
        if found is None:
            found = self._find_near(expected + margin, expected + self.step + margin)
            if found is not None and found - expected > self.step - 2 * margin:
                yield from self._burst(start, False)
                self._start = expected
                return
        yield from self._burst(start, True)
        self._start = found
        if found is None:
            self._next = expected - margin
            return
        self.jumps += 1
        self.run += 1
        if found - self.step > start + self.step // 2:
            # The preamble between was lost, though perhaps not its frame.
            yield from self._burst(found - self.step, True)

    def _find(self, begin: int, end: int) -> int | None:
        """The place of a preamble that begins at begin to end-1."""
        at = self._detector.find(self._buffer.view(begin, end + self._reach.size - 1))
        return None if at is None else begin + at

    def _find_near(self, begin: int, end: int) -> int | None:
        """The same, unless its carrier is too far off."""
        found = self._find(begin, end)
        if found is None:
            return None
        carrier = self._detector.carrier(self._buffer.view(found, found + self._reach.size))
        if abs(carrier) <= self._widest:
            return found
        self.far_carrier = carrier
        return None

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
