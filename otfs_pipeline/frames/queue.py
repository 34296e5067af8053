"""A bounded queue between a source with a thread of its own and the receiver."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ctypes import c_int64

from otfs_pipeline.frames.source import Frame

_POLL = 1e-4  # seconds between two checks of a full queue


class FrameQueue:
    """Frames of `source`, read ahead in a thread; at most `size` wait.

    Iterating yields None while no frame waits: the receiver polls for results too, and a thread
    that sleeps on a lock may wake late. No frame comes after `stop` is set; a source that waits
    for something must check it too. When the queue is full, the source waits; with `drop` the
    oldest frame is dropped instead and counted as an overrun. An exception in the thread is raised
    by the iteration.
    """

    def __init__(
        self, source: Iterable[Frame], size: int, drop: bool, stop: threading.Event
    ) -> None:
        self.dropped = 0
        self.word = c_int64(0)
        """Another number after every frame, and at the end."""
        self._waiting: deque[Frame] = deque()  # its appends and pops are atomic
        self._size, self._drop, self._stop = size, drop, stop
        self._ended = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._fill, args=(source,), daemon=True)
        self._thread.start()

    def _fill(self, source: Iterable[Frame]) -> None:
        try:
            for frame in source:
                self._put(frame)
                if self._stop.is_set():
                    break
        except BaseException as error:
            self._failure = error
        finally:
            self._ended = True
            self.word.value += 1

    def _put(self, frame: Frame) -> None:
        if self._drop:
            if len(self._waiting) >= self._size:
                with suppress(IndexError):  # the receiver took it in between
                    self._waiting.popleft()
                    self.dropped += 1
        else:
            while len(self._waiting) >= self._size and not self._stop.is_set():
                time.sleep(_POLL)
        self._waiting.append(frame)
        self.word.value += 1
        time.sleep(0)  # The receiver wants the interpreter now.

    def __iter__(self) -> Iterator[Frame | None]:
        while not self._stop.is_set():
            # Read first: a frame that came before the end must still be yielded.
            ended = self._ended
            if self._waiting:
                with suppress(IndexError):  # the thread dropped it in between
                    yield self._waiting.popleft()
            elif ended:
                break
            else:
                yield None
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Stop the thread and wait for it; frames that still wait are discarded."""
        self._stop.set()
        self._thread.join()
