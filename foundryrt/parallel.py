"""How many threads to use; some that can be waited for, whatever interrupts; jobs for several."""

from __future__ import annotations

import os
from _thread import LockType, allocate_lock, start_new_thread
from collections import deque
from collections.abc import Callable, Iterable
from itertools import starmap
from typing import TypeVar

from foundryrt.undo import Undo, raise_first, waited_for

T = TypeVar("T")
WORKERS = min(16, os.cpu_count() or 1)


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def available_threads() -> int:
    """OMP_NUM_THREADS where it is set, and never more than the processors of this process."""
    here = processors()
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if wanted.isascii() and wanted.isdigit() and int(wanted[:9]) > 0:
        return min(int(wanted[:9]), here)
    return here


class Worker:
    """A background thread; `join` can be an undo step before `start` is called.

    An interrupt within threading.Thread.start may leave a thread that nobody knows to be running,
    or one that waits forever for a lock.
    """

    def __init__(self) -> None:
        self._busy = allocate_lock()
        self._started: list[int] = []

    def start(self, work: Callable[[], object]) -> None:
        """Begin `work`, once; RuntimeError where the system gives no thread."""
        self._busy.acquire()
        # One instruction starts and remembers.
        self._started.extend(starmap(start_new_thread, ((_work, (work, self._busy)),)))

    def is_alive(self) -> bool:
        """Whether the work is not done yet."""
        return bool(self._started) and self._busy.locked()

    def join(self) -> None:
        """Wait until the work is done; returns at once where it was never begun."""
        if self._started:
            with self._busy:
                pass


def _work(work: Callable[[], object], busy: LockType) -> None:
    waited_for.here = True
    try:
        work()
    finally:
        busy.release()


def each(function: Callable[[T], object], items: Iterable[T], within: Undo | None = None) -> None:
    """Call `function` with every item, in order of the list as threads come free.

    The first exception stops the others at their next item and is raised here. `within` waits for
    threads that an interrupt has left: give the Undo of what the function uses.
    """
    # concurrent.futures would do the same for some 10 ms of imports at start-up.
    jobs = deque(items)
    failures: list[BaseException] = []

    def work() -> None:
        while not failures:
            try:
                item = jobs.popleft()
            except IndexError:
                return
            try:
                function(item)
            except BaseException as error:  # raised again below
                failures.append(error)

    with within.part() if within else Undo() as undo:
        for _ in range(min(WORKERS, len(jobs)) - 1):
            worker = Worker()
            undo.push(worker.join)
            undo.push(jobs.clear)  # before: nobody waits for jobs that were not begun
            try:
                worker.start(work)
            except RuntimeError:
                break  # the system gives no more threads: those that there are do everything
        work()
    raise_first(failures)
