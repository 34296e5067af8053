"""The same capture made again by other processes, to tell addresses from values and from noise.

A program is run again as it is, with these variables in its environment. Its `Recorder` then stores
what it captured, in place of writing a bundle:

    FOUNDRY_STORE=again.capture python program.py
    FOUNDRY_STORE=moved.capture FOUNDRY_MOVED=1 python program.py
    FOUNDRY_STORE=grown.capture FOUNDRY_GROWN=1 python program.py
    FOUNDRY_STORE=between.capture FOUNDRY_GROWN=2 python program.py

`foundryc capture` does that by itself, and compares them (foundryc/compare); the third only where a
tensor was registered to grow, the last where the third does not suffice.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from foundryc.capture import Capture
from foundryc.capture_file import load
from foundryc.native import HEAP
from foundryc.slides import Slides, start_apart
from foundryrt.errors import FoundryError
from foundryrt.undo import Undo

STORE, MOVED, GROWN = "FOUNDRY_STORE", "FOUNDRY_MOVED", "FOUNDRY_GROWN"
_GIVEN = "FOUNDRY_GIVEN"
"""Variables that a process was started with to lie apart, as JSON: what the user has of each."""
FILLS = 0, 0xA5, 0x5A
"""What is unused of the stack is filled with: of the bundle's capture, and of the two others."""
_SHOWN = 2000
_CRASHES = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}
_REFUSALS = ("undefined symbol", "LD_PRELOAD", "PYTHONMALLOC")
"""What a loader, a sanitizer and Python say where they cannot work with what `apart` gives."""


def store() -> Path | None:
    """Where this process is to store its captures, if it runs for another one."""
    path = os.environ.get(STORE)
    return Path(path) if path else None


def moved() -> bool:
    """Whether this process is to have its memory elsewhere than by default."""
    return os.environ.get(MOVED, "") not in ("", "0")


def rows(few: int, most: int) -> int:
    """How many rows this process is to have of a tensor that may grow from `few` to `most`."""
    return {"1": most, "2": between(few, most)}.get(os.environ.get(GROWN, ""), few)


def between(few: int, most: int) -> int:
    """A number of rows that is another one than `most`, if there is one."""
    return few + (most - few) // 2


def fill() -> int:
    """The byte with which this process fills what is unused of its stack, see foundryc.cuda.stack.

    Another one in each of the captures that are compared: what is left of it is noise.
    """
    return FILLS[0 if store() is None else 2 if moved() else 1]


def calls_ahead() -> int:
    """Driver calls that this process makes before any other.

    CUPTI counts calls, and what it counts is left on the stack: in the second capture it differs in
    all three bytes that such a count has, however the two differ in a few calls.
    """
    return 0x158080 if store() is not None and not moved() else 0


def apart(half: int | None) -> dict[str, str]:
    """The environment of a process that leaves other bytes behind than one of the other half.

    The loader looks all functions up at the start; at their first call it leaves addresses behind.
    With a half, 0 or 1, all memory that the C library gives is at even or odd multiples of its
    alignment: a pointer to it has another lowest byte then, however alike two processes are
    (foundryc/compare). Not where something else is preloaded, or where the loader would take the
    path for several.
    """
    given = {"LD_BIND_NOW": "1"}
    if half is None or os.environ.get("LD_PRELOAD") or {" ", ":"} & set(str(HEAP)):
        return given
    given |= {"LD_PRELOAD": str(HEAP), "FOUNDRY_HEAP_HALF": str(half), "PYTHONMALLOC": "malloc"}
    return given


def give_back() -> None:
    """Have this process's environment as the user has it, without what `apart` gave.

    The loader, the allocator and Python have read it; a compiler or another program that this one
    starts may not work with it.
    """
    for name, value in json.loads(os.environ.pop(_GIVEN, "{}")).items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@dataclass(frozen=True)
class _Run:
    """A process, what it says, where it lies, and what it was started with."""

    process: subprocess.Popen[bytes]
    said: IO[bytes]
    slides: Slides
    other: Slides
    own: Mapping[str, str]
    given: Mapping[str, str]


class Elsewhere:
    """More processes that run `command`, one after the other; what they store is in `folder`.

    Leaving the `with` block ends what still runs.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """`say` is told where one has to run once more."""
        self._command = list(command)
        self.folder = folder
        self._say = say
        self._as_it_is = False
        """Whether processes are started in the user's environment: they fail in another one."""
        self._undo = Undo()
        self._running: dict[str, _Run] = {}

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def begin(self) -> None:
        """Run the first, at the same base, to its end, and begin the second.

        The latter goes on beside this process: together they need twice the memory, as the proof
        does. FoundryError where the first one failed.
        """
        # Apart from the first, not from this one: what both have in common is no chance.
        first = self._run_first()
        self._start("moved", first, {MOVED: "1"}, half=1)

    def again(self) -> Capture:
        """What the first stored."""
        return load(self.folder / "again")

    def rerun_first(self) -> Capture:
        """What the first stores when it runs once more, now; FoundryError where it fails."""
        self._run_first()
        return self.again()

    def moved(self) -> Capture:
        """What the second stored, once it has ended; FoundryError where it failed."""
        self._end("moved")
        return load(self.folder / "moved")

    def grown(self) -> Capture:
        """What one with more rows stores, which runs now; FoundryError where it fails."""
        return self._more("grown", "1")

    def between(self) -> Capture:
        """What one with fewer of them stores."""
        return self._more("between", "2")

    def _run_first(self) -> Slides:
        self._start("again", Slides.of(), {}, half=0)
        return self._end("again").slides

    def _more(self, name: str, rows: str) -> Capture:
        self._start(name, Slides.of(), {GROWN: rows}, half=None)
        self._end(name)
        return load(self.folder / name)

    def _start(self, name: str, other: Slides, own: Mapping[str, str], half: int | None) -> None:
        """Start the process `name` apart from where another one lies or lay."""
        said = TemporaryFile()  # noqa: SIM115 (closed by the undo)
        self._undo.push(said.close)
        given = {} if self._as_it_is else apart(half)
        before = json.dumps({variable: os.environ.get(variable) for variable in given})
        environment = os.environ | {STORE: str(self.folder / name), "FOUNDRY_CACHE": ""}
        environment |= {**own, **given, _GIVEN: before}

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(self._command, env=environment, stdout=said, stderr=said)

        process, slides = start_apart(start, other)
        self._undo.push(partial(_kill, process))
        self._running[name] = _Run(process, said, slides, other, own, given)

    def _end(self, name: str) -> _Run:
        """The process `name`, which has ended well; once more as it is, where that may help.

        FoundryError where it failed.
        """
        run = self._running[name]
        code = run.process.wait()
        if not code:
            return run
        run.said.seek(0)
        said = run.said.read().decode(errors="replace").strip()
        if not (run.given and _may_be_ours(code, said)):
            raise FoundryError(_problem(said, name, code))
        self._say(
            f"the capture to compare with ended with exit status {code} in an environment with"
            f" {', '.join(run.given)}; it runs once more without, and two bundles of this program"
            " may differ in bytes that mean nothing"
        )
        self._as_it_is = True
        self._start(name, run.other, run.own, half=None)
        return self._end(name)


def _may_be_ours(code: int, said: str) -> bool:
    """Whether a process that ended so might not have without what `apart` gave.

    What else a program fails for it would fail for again, and its user would wait twice.
    """
    crashes = code in {-number for number in _CRASHES} | {128 + number for number in _CRASHES}
    return crashes or any(refusal in said for refusal in _REFUSALS)


def _problem(said: str, name: str, code: int) -> str:
    """Of the process `name` that ended with `code`: its own words first, if they are an error's."""
    last = said.rpartition("\n")[2]
    problem = last.removeprefix("error: ")
    if problem == last:
        problem = f"exit status {code}: {said[-_SHOWN:]}"
    return f"{problem}; so ended the same capture made {name}, to compare the two"


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
