"""Undo steps: their order, errors and interrupts among them, owners that are collected or exit."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundryrt.parallel import Worker, each
from foundryrt.undo import Held, Undo, waited_for


class Things:
    """Counts what is taken; each step may be interrupted or fail, and runs again."""

    def __init__(self) -> None:
        self.freed: list[int] = []
        self.troubles: dict[int, list[BaseException]] = {}

    def free(self, number: int) -> None:
        if self.troubles.get(number):
            raise self.troubles[number].pop()
        if number not in self.freed:
            self.freed.append(number)


@given(
    count=st.integers(0, 8),
    interrupted=st.integers(0, 8),
    failing=st.sets(st.integers(0, 7)),
)
def test_every_step_runs_last_first_whatever_one_of_them_raises(count, interrupted, failing):
    things, undo = Things(), Undo()
    things.troubles = {n: [OSError(n)] for n in failing}
    things.troubles[interrupted] = [KeyboardInterrupt()]
    for number in range(count):
        undo.push(partial(things.free, number))
    failed = [n for n in reversed(range(count)) if n in failing - {interrupted}]
    try:
        undo.close()
    except KeyboardInterrupt:
        assert interrupted < count
    except OSError as error:
        assert error.args == (failed[0],)
    else:
        assert not failed and interrupted >= count
    assert things.freed == [n for n in reversed(range(count)) if n not in failed]
    undo.close()


def test_after_two_interrupts_a_second_close_goes_on() -> None:
    things, undo = Things(), Undo()
    things.troubles = {1: [KeyboardInterrupt(), KeyboardInterrupt()]}
    for number in range(3):
        undo.push(partial(things.free, number))
    with pytest.raises(KeyboardInterrupt):
        undo.close()
    assert things.freed == [2]
    undo.close()
    assert things.freed == [2, 1, 0]


def test_a_part_is_closed_in_its_place_and_can_be_used_again() -> None:
    things, undo = Things(), Undo()
    undo.push(partial(things.free, 0))
    part = undo.part()
    undo.push(partial(things.free, 1))
    for number in (2, 3):
        part.push(partial(things.free, number))
        if number == 2:
            part.close()
    undo.close()
    assert things.freed == [2, 1, 3, 0]


def test_what_nobody_closed_is_freed_when_it_is_collected() -> None:
    things = Things()
    outer = Undo()
    outer.push(partial(things.free, 0))
    inner = Undo(outlived_by=outer)
    inner.push(partial(things.free, 1))
    things.troubles = {1: [OSError()]}
    del outer
    assert things.freed == []
    del inner
    assert things.freed == [0]


def test_what_an_interrupted_collection_left_the_next_undo_finds(monkeypatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    things, undo = Things(), Undo()
    undo.push(partial(things.free, 0))
    things.troubles = {0: [KeyboardInterrupt(), KeyboardInterrupt()]}
    del undo
    assert things.freed == []
    Undo()
    assert things.freed == [0]


def test_a_thread_that_steps_wait_for_runs_none() -> None:
    ran: list[int] = []
    box = [Undo()]
    box[0].push(lambda: ran.append(threading.get_ident()))
    worker = Worker()
    idents: list[int] = []

    def work() -> None:
        assert waited_for.here
        idents.append(threading.get_ident())
        box.clear()

    worker.start(work)
    worker.join()
    while not ran:
        time.sleep(0.001)
    assert ran[0] not in (idents[0], threading.get_ident())


def test_something_held_is_given_back_once() -> None:
    for code, times in ((0, 1), (2, 0)):
        held, freed = Held(), []
        assert held.take(lambda code: code, code) == code
        for _ in range(2):
            held.release(freed.append, 1)
        assert len(freed) == times


def test_a_thread_the_system_refuses_is_not_waited_for(monkeypatch) -> None:
    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("foundryrt.parallel.start_new_thread", refuse)
    worker = Worker()
    worker.join()
    with pytest.raises(RuntimeError):
        worker.start(lambda: None)
    worker.join()
    assert not worker.is_alive()
    done: list[int] = []
    each(done.append, range(5))
    assert done == list(range(5))


def test_each_waits_for_its_threads_before_it_raises() -> None:
    running: list[int] = []

    def use(item: int) -> None:
        running.append(item)
        time.sleep(0.01)
        running.remove(item)
        raise KeyboardInterrupt if item == 0 else OSError

    for _ in range(5):
        with pytest.raises((KeyboardInterrupt, OSError)):
            each(use, range(8))
        assert not running


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=20, env=os.environ
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_at_exit_steps_run_while_threads_still_do() -> None:
    text = run("""
import time
from foundryrt.parallel import Worker
from foundryrt.undo import Undo
undo, worker = Undo(), Worker()
undo.part().push(lambda: print("memory"))
undo.push(worker.join)
worker.start(lambda: (time.sleep(0.2), print("thread")))
""")
    assert text == "thread\nmemory\n"


def test_a_forked_child_runs_no_steps_of_its_parent() -> None:
    text = run("""
import os
from foundryrt.parallel import Worker
from foundryrt.undo import Undo
undo, worker, gate = Undo(), Worker(), __import__("threading").Event()
undo.push(lambda: print("freed", flush=True))
undo.push(worker.join)
worker.start(gate.wait)
if os.fork() == 0:
    del undo
else:
    assert os.wait()[1] == 0
    gate.set()
""")
    assert text == "freed\n"
