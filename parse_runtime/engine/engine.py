"""The scheduler on a thread of its own: other threads submit answers to it and cancel them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from foundryrt.errors import FoundryError, UsageError
from parse_runtime.engine.memory import Usage
from parse_runtime.engine.protocols import Decoder, Target
from parse_runtime.engine.request import Listener, Request
from parse_runtime.engine.scheduler import Scheduler

_LOG = logging.getLogger(__name__)
Take = Callable[[list[Any]], object]

FAILING = 3
"""After so many failed answers in a row the device is taken to be broken."""


class Overloaded(FoundryError):
    """As many answers wait for a slot as may."""


class Stopped(FoundryError):
    """The engine takes no more answers, or ended one that was not done."""


def aborted() -> Stopped:
    """The error of answers that `Engine.abort` ends."""
    return Stopped("the server stops, and the answer took longer than it waits")


class Engine:
    """Close it when done. Listeners are called in its thread and must not block it."""

    def __init__(self, scheduler: Scheduler, queue: int = 64) -> None:
        """`queue`: answers that may wait for a slot."""
        if queue < 0:
            raise UsageError(f"queue {queue}: at least 0 is needed")
        self._scheduler, self._queue = scheduler, queue
        self._changed = threading.Condition()
        self._commands: list[Callable[[], None]] = []
        self._coming = 0
        """Answers that are submitted, but not yet known to the scheduler."""
        self._closing = False
        self._left: dict[Take, list[Any]] = {}
        scheduler.told = self._hand_over
        self._thread = threading.Thread(target=self._work, name="parse-engine", daemon=True)
        self._thread.start()

    @property
    def max_len(self) -> int:
        """Tokens of prompt and answer."""
        return self._scheduler.max_len

    @property
    def capacity(self) -> int:
        """Answers that may run and wait."""
        return self._scheduler.slots + self._queue

    @property
    def state(self) -> str:
        """`ok`, `failing` where no answer is completed, `stopped` where none is taken."""
        if self._closing or not self.working:
            return "stopped"
        return "failing" if self.failed >= FAILING else "ok"

    @property
    def working(self) -> bool:
        """The thread has not ended."""
        return self._thread.is_alive()

    @property
    def failed(self) -> int:
        """Answers that failed in a row; those of unfit requests do not count."""
        return self._scheduler.failed

    @property
    def load(self) -> tuple[int, int]:
        """Answers that run, and that wait."""
        return self._scheduler.running, self._scheduler.waiting + self._coming

    @property
    def usage(self) -> dict[str, Usage]:
        """Blocks of the caches of target and draft model."""
        return self._scheduler.memory.usage

    def submit(self, request: Request, listener: Listener, waited: bool = False) -> None:
        """Have `request` answered; UsageError where it does not fit, Overloaded for too many.

        One that has `waited` elsewhere is not refused for those that wait here.
        """
        request.check(self.max_len)
        with self._changed:
            if self.state == "stopped":
                raise Stopped("the engine is stopped")
            if not waited and sum(self.load) >= self.capacity:
                raise Overloaded(f"{self._queue} answers wait already: come again later")
            self._coming += 1
            self._commands.append(lambda: self._admit(request, listener))
            self._changed.notify()

    def cancel(self, listener: Listener) -> None:
        """End the listener's answer and free its slot; nothing happens where it ended already."""
        with self._changed:
            self._commands.append(lambda: self._scheduler.cancel(listener))
            self._changed.notify()

    def replace(self, models: Callable[[], tuple[Target, Decoder]]) -> float:
        """Have all answers go on with other models; the seconds in which no pass could run.

        `models` is called between two steps, in the engine's thread, and gives models whose caches
        hold what those of the present ones do. What it raises is raised here, and nothing changes.
        """
        done: Future[float] = Future()

        def change() -> None:
            since = time.perf_counter()
            try:
                self._scheduler.replace(*models())
            except Exception as error:
                done.set_exception(error)
            else:
                done.set_result(time.perf_counter() - since)

        with self._changed:
            if self.state == "stopped":
                raise Stopped("the engine is stopped")
            self._commands.append(change)
            self._changed.notify()
        return done.result()

    def abort(self) -> None:
        """Take no more; answers that are not done fail with `aborted()`, after the pass."""
        with self._changed:
            self._closing = True
            self._commands.append(self._abort)
            self._changed.notify()

    def close(self, seconds: float | None = None) -> None:
        """Take no more, finish what was submitted, and end the thread.

        It still works where that takes longer than `seconds`: a pass cannot be interrupted.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)

    def leave(self, take: Take, value: object) -> None:
        """Have `take` called with a list of all that was left for it since it was last called.

        That is once the answers of the present pass have been told of it, or as soon as the next
        one is on its way: what is said of many answers wakes another thread once. Of the engine's
        thread.
        """
        self._left.setdefault(take, []).append(value)

    def _hand_over(self) -> None:
        left, self._left = self._left, {}
        for take, values in left.items():
            self._guarded(partial(take, values))

    def _admit(self, request: Request, listener: Listener) -> None:
        self._scheduler.submit(request, listener)
        with self._changed:
            self._coming -= 1

    def _abort(self) -> None:
        for listener in self._scheduler.listeners:
            self._guarded(partial(self._scheduler.cancel, listener, aborted()))

    def _work(self) -> None:
        busy = False
        while True:
            with self._changed:
                while not (busy or self._commands or self._closing):
                    self._changed.wait()
                commands, self._commands = self._commands, []
                if self._closing and not commands and not busy:
                    return
            for command in commands:
                self._guarded(command)
            more = self._guarded(self._scheduler.step)
            # After an error there may be more to do.
            busy = more is not False
            if more is not True:  # else the next step hands over, once its pass is on its way
                self._hand_over()

    @staticmethod
    def _guarded(call: Callable[[], object]) -> object:
        """What the call gives; an error is logged: the thread must go on for the other answers."""
        try:
            return call()
        except Exception:
            _LOG.exception("a listener failed")
            return None
