"""Plain threads over a list of jobs: for hashing and copying, which release the GIL."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
WORKERS = min(16, os.cpu_count() or 1)


def each(function: Callable[[T], object], items: Iterable[T]) -> None:
    """Call `function` with every item, in order of the list as workers come free.

    The first exception stops the others at their next item and is raised here.
    """
    # concurrent.futures would do the same for some 10 ms of imports at start-up.
    jobs = list(items)
    todo = iter(jobs)
    lock = threading.Lock()
    failures: list[BaseException] = []

    def work() -> None:
        while not failures:
            with lock:
                item = next(todo, None)
            if item is None:
                return
            try:
                function(item)
            except BaseException as error:  # raised again below
                failures.append(error)

    threads: list[threading.Thread] = []
    for _ in range(min(WORKERS, len(jobs)) - 1):
        thread = threading.Thread(target=work, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            break  # the system gives no more threads: those that there are do everything
        threads.append(thread)
    work()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
