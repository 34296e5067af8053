"""Raises KeyboardInterrupt at many moments of a session's life, and looks for what is left behind.

`interrupts.py FOLDER signals|places` prints a JSON list of what was wrong: after interrupts at
1,000 random times, or at every place of the runtime's code where CPython looks for signals.
"""

from __future__ import annotations

import ctypes
import dis
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import foundryrt
from foundryrt.errors import FoundryError
from foundryrt.session import Session
from foundryrt.undo import Undo
from tests.fakecuda import bundle as counters
from tests.fakecuda import test_weights as weights
from tests.fakecuda.conftest import FakeDriver

RUNTIME = str(Path(foundryrt.__file__).parent)
folder, way = Path(sys.argv[1]), sys.argv[2]
fake = FakeDriver(ctypes.CDLL(os.environ["FOUNDRY_LIBCUDA"], mode=ctypes.RTLD_GLOBAL))
counting = counters.write(folder / "counters.fdy")
weighty = weights.write(folder)


def launches() -> None:
    with Session.open(counting, first=("step", {"by": 25})) as session:
        graph = session.graph("step", by=11)
        graph.launch()
        pipeline = graph.pipeline(("state",), ("result",), depth=2)
        pipeline.submit(0, {"state": pipeline.staging("state")})
        pipeline.wait(0)
        pipeline.close()
        readback = graph.readback("result")
        graph.launch()
        readback.start()
        readback.wait()
        session.graph("last").launch()
        session.wait()
        session.read("state")


def loads() -> None:
    with Session.open(weighty, load_weights=False) as session:
        session.load_weights()


def drops() -> None:
    session = Session.open(counting)
    pipeline = session.graph("last").pipeline(("state",), ("result",))
    pipeline.submit(0, {"state": pipeline.staging("state")})


def resources() -> tuple[str, int, int]:
    return fake.live, len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


def left(before: tuple[str, int, int]) -> tuple[str, int, int] | None:
    """What there is besides what was there before; a thread may take a moment to be gone."""
    for _ in range(200):
        if (now := resources()) == before:
            return None
        time.sleep(0.005)
    return now


armed: list[bool] = []


def interrupt(*_: object) -> None:
    if armed:
        armed.clear()
        raise KeyboardInterrupt


def at_time(use: Callable[[], None], seconds: float) -> None:
    try:
        armed.append(True)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        use()
        armed.clear()
    except KeyboardInterrupt:
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)


@cache
def places(code: CodeType) -> set[int]:
    """Instructions before which CPython has just looked for signals."""
    looked = {"RESUME", "CALL", "CALL_FUNCTION_EX", "CALL_KW", "JUMP_BACKWARD"}
    bytecode = dis.Bytecode(code)

    def handlers(offset: int) -> list[int]:
        entries = bytecode.exception_entries  # type: ignore[attr-defined]
        return [entry.target for entry in entries if entry.start <= offset < entry.end]

    found, before = set(), None
    for instruction in bytecode:
        # Python raises at the call itself, so where another handler begins here, this cannot be it.
        looks = before is not None and before.opname in looked
        if looks and handlers(before.offset) == handlers(instruction.offset):
            found.add(instruction.offset)
        before = instruction
    return found


Place = tuple[CodeType, int]


def at_place(use: Callable[[], None], place: Place | None = None, times: int = 0) -> list[Place]:
    """The places that `use` came by, up to an interrupt as it comes to `place` so many times.

    With a place only its own code is looked at, instruction by instruction.
    """
    passed: list[Place] = []

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if RUNTIME not in frame.f_code.co_filename or (place and frame.f_code is not place[0]):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode" and frame.f_lasti in places(frame.f_code):
            passed.append((frame.f_code, frame.f_lasti))
            if passed[-1] == place and passed.count(place) == times:
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        use()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return passed


# What an interrupt within a destructor becomes; that it is lost is Python's rule.
sys.unraisablehook = lambda _: None
signal.signal(signal.SIGALRM, interrupt)
random.seed(0)
wrong = []
tried: set[Place] = set()
for use, share in ((launches, 0.5), (loads, 0.25), (drops, 0.25)):
    for _ in range(3):
        use()
    time.sleep(0.1)  # for threads that are ending
    before, start = resources(), time.perf_counter()
    use()
    seconds = time.perf_counter() - start
    # Each where it is come by for the last time.
    passed = [item for item in Counter(at_place(use)).items() if item[0] not in tried]
    tried.update(place for place, _ in passed)
    moments = [random.uniform(1e-6, 1.1 * seconds) for _ in range(int(1000 * share))]
    for when in moments if way == "signals" else passed:
        try:
            if isinstance(when, tuple):
                place, times = when
                came = at_place(use, place, times).count(place)
                if came < times:  # another thread was faster
                    at_place(use, place, came)
            else:
                at_time(use, when)
        except FoundryError as error:
            wrong.append((use.__name__, str(when), str(error)))
        if use is drops:
            Undo()  # the next session would make one
        if rest := left(before):
            wrong.append((use.__name__, str(when), str(rest)))
            before = resources()
print(json.dumps(wrong))
