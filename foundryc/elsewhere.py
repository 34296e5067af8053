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

import os
import subprocess
from collections.abc import Mapping, Sequence
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
_SHOWN = 2000


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
    return 0 if store() is None else 0x5A if moved() else 0xA5


def calls_ahead() -> int:
    """Driver calls that this process makes before any other.

    CUPTI counts calls, and what it counts is left on the stack: in the second capture it differs in
    all three bytes that such a count has, however the two differ in a few calls.
    """
    return 0x158080 if store() is not None and not moved() else 0


def heap(half: int) -> dict[str, str]:
    """The environment of a process whose heap has even (0) or odd (1) multiples of the alignment.

    A pointer into the heap that is left in a kernel's arguments has another lowest byte then than
    the one of a process of the other half, however alike the two are (foundryc/compare). Nothing
    where something else is preloaded, or where the loader would take the path for several.
    """
    if os.environ.get("LD_PRELOAD") or {" ", ":"} & set(str(HEAP)):
        return {}
    return {"LD_PRELOAD": str(HEAP), "FOUNDRY_HEAP_HALF": str(half), "PYTHONMALLOC": "malloc"}


class Elsewhere:
    """More processes that run `command`, one after the other; what they store is in `folder`.

    Leaving the `with` block ends what still runs.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._command = list(command)
        self.folder = folder
        self._undo = Undo()
        self._running: dict[str, tuple[subprocess.Popen[bytes], IO[bytes]]] = {}

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
        self._start("moved", first, {MOVED: "1"} | heap(1))

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
        slides = self._start("again", Slides.of(), heap(0))
        self._end("again")
        return slides

    def _more(self, name: str, rows: str) -> Capture:
        self._start(name, Slides.of(), {GROWN: rows})
        self._end(name)
        return load(self.folder / name)

    def _start(self, name: str, other: Slides, environment: Mapping[str, str]) -> Slides:
        """Start the process `name` apart from where another one lies or lay."""
        said = TemporaryFile()  # noqa: SIM115 (closed by the undo)
        self._undo.push(said.close)
        # The loader looks a function up at its first call otherwise, and leaves addresses behind.
        own = {STORE: str(self.folder / name), "FOUNDRY_CACHE": "", "LD_BIND_NOW": "1"}
        own |= environment

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(self._command, env=os.environ | own, stdout=said, stderr=said)

        process, slides = start_apart(start, other)
        self._undo.push(partial(_kill, process))
        self._running[name] = process, said
        return slides

    def _end(self, name: str) -> None:
        process, said = self._running[name]
        code = process.wait()
        if code:
            said.seek(0)
            raise FoundryError(_problem(said.read().decode(errors="replace").strip(), name, code))


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
