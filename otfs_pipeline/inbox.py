"""A bounded queue between a source with a thread of its own and the receiver."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

from otfs_pipeline.source import Frame

_TICK = 0.1  # seconds after which a waiting thread looks whether it should stop


class Inbox:
    """Frames of `source`, read ahead in a thread; at most `size` wait.

    Once `stop` is set no frame comes any more; a source that waits for something looks at it too.
    A full queue holds the source up or, with `drop`, loses its oldest frame, which is counted.
    What fails in the thread is raised where the frames are taken.
    """

    def __init__(
        self, source: Iterable[Frame], size: int, drop: bool, stop: threading.Event
    ) -> None:
        self.dropped = 0
        self._waiting: deque[Frame] = deque()
        self._size, self._drop = size, drop
        self._changed = threading.Condition()
        self._stop = stop
        self._ended = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._fill, args=(source,), daemon=True)
        self._thread.start()

    def _fill(self, source: Iterable[Frame]) -> None:
        try:
            for frame in source:
                self._put(replace(frame, ready=frame.ready or time.perf_counter()))
                if self._stop.is_set():
                    break
        except BaseException as error:
            self._failure = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, frame: Frame) -> None:
        with self._changed:
            if self._drop and len(self._waiting) >= self._size:
                self._waiting.popleft()
                self.dropped += 1
            while len(self._waiting) >= self._size and not self._stop.is_set():
                self._changed.wait(_TICK)
            self._waiting.append(frame)
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Frame]:
        while True:
            with self._changed:
                while not (self._waiting or self._ended or self._stop.is_set()):
                    self._changed.wait(_TICK)
                if not self._waiting or self._stop.is_set():
                    break
                frame = self._waiting.popleft()
                self._changed.notify_all()
            yield frame
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Stop the thread and wait for it; what still waits is let go."""
        self._stop.set()
        self._thread.join()
