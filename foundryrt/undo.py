"""What was taken is given back: in reverse order, once, whatever interrupts, closed or not.

Ctrl-C may raise KeyboardInterrupt after any call that Python code makes, so also between a driver
call and the line that would remember its result. Hence three rules:

1. An undo step is pushed before its object exists, and does nothing as long as there is none.
2. `Held` learns in the very call, without Python code between, whether the object exists.
3. A step may run twice: `Undo` drops it only after it has returned, and resumes after an interrupt.
"""

from __future__ import annotations

import atexit
import os
import threading
from _thread import start_new_thread
from collections.abc import Callable
from functools import partial
from itertools import count, starmap
from operator import call
from types import TracebackType
from typing import Any, TypeVar
from weakref import ref

E = TypeVar("E", bound=BaseException)
Steps = list[Callable[[], object]]

_undos: dict[int, tuple[ref[Undo], Steps, object]] = {}
"""Every `Undo` that may have steps, its steps, and what must outlive it."""
_numbers = count()
_sweeping = threading.RLock()
_sweeps: list[bool] = []
"""Holds an element while the thread that has `_sweeping` is sweeping."""
waited_for = threading.local()
"""`here` is set on threads that steps wait for: such a thread must not run steps itself."""


class Held:
    """Whether something is held: known as soon as the C function that takes it has returned."""

    def __init__(self) -> None:
        self._codes: list[int] = []

    def take(self, function: Callable[..., int], *arguments: Any) -> int:
        """Call, once, a C function that takes something and returns 0, or another number."""
        # One instruction calls and remembers.
        self._codes.extend(starmap(function, (arguments,)))
        return self._codes[-1]

    def release(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a C function that gives it back, unless nothing is held; its result, or 0."""
        if self._codes != [0]:
            return 0
        try:
            # Forgotten and given back by one instruction: never twice, and not by two threads.
            both: list[Callable[[], Any]] = [self._codes.pop, partial(function, *arguments)]
            return [*map(call, both)][1]
        except IndexError:
            return 0


class Undo:
    """Steps that undo what was done; they run last first, on `close` or when this is collected.

    Steps must not refer to this object, nor to one that does: it would never be collected.
    `outlived_by` lives until the steps have run. At exit all steps run; in a forked child none do
    unless `close` is called.
    """

    def __init__(self, outlived_by: object = None) -> None:
        if not hasattr(waited_for, "here"):
            _sweep()
        self._steps: Steps = []
        _undos[next(_numbers)] = ref(self, _collected), self._steps, outlived_by

    def push(self, step: Callable[[], object]) -> None:
        """Have `step` run before those pushed earlier. It may run again after an interrupt."""
        self._steps.append(step)

    @property
    def pending(self) -> bool:
        """Whether steps are left: what they undo is there."""
        return bool(self._steps)

    def part(self) -> Undo:
        """An Undo that is closed in the place of a step of this one, if not before."""
        part = object.__new__(Undo)  # nothing but this one's steps have it run
        part._steps = []
        self.push(part.close)
        return part

    def close(self) -> None:
        """Run all steps; raises the first error once all have run. A second call does nothing.

        After a KeyboardInterrupt the steps that are left still run before it is raised.
        """
        failures: list[Exception] = []
        _unwind(self._steps, failures)
        raise_first(failures)

    def rollback(self) -> None:
        """Run all steps without raising their errors: another error is on its way."""
        _unwind(self._steps, [])

    def __enter__(self) -> Undo:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.rollback()


def raise_first(failures: list[E]) -> None:
    """Raise the first of `failures`, if any, and empty the list.

    The traceback refers to the frame that has the list: what that frame uses would be collected
    late.
    """
    if failures:
        failure = failures[0]
        failures.clear()
        try:
            raise failure
        finally:
            del failure


def _unwind(steps: Steps, failures: list[Exception]) -> None:
    try:
        _run(steps, failures)
    finally:
        _run(steps, failures)  # what an interrupt has left


def _run(steps: Steps, failures: list[Exception]) -> None:
    while steps:
        step = steps[-1]
        try:
            step()
        except Exception as error:
            failures.append(error)
        if steps and steps[-1] is step:
            steps.pop()


def _collected(_: object) -> None:
    """An Undo is gone. What an interrupt leaves here, the next Undo to be made finds."""
    if hasattr(waited_for, "here"):
        start_new_thread(_sweep, ())
    else:
        _sweep()


def _sweep(everything: bool = False) -> None:
    """Run the steps of every Undo that was collected, newest first."""
    with _sweeping:
        if _sweeps:
            return  # within a step of a sweep, which looks again when that is done
        try:
            _sweeps.append(True)
            while gone := [n for n, (undo, *_) in list(_undos.items()) if everything or not undo()]:
                _unwind(_undos[gone[-1]][1], [])
                del _undos[gone[-1]]
        finally:
            _sweeps.clear()


def _forget() -> None:
    """A forked child has neither its parent's threads nor its driver."""
    global _sweeping
    _sweeping = threading.RLock()
    _sweeps.clear()
    _undos.clear()


# While other threads still run: later a step would wait for one forever.
atexit.register(_sweep, everything=True)
os.register_at_fork(after_in_child=_forget)
