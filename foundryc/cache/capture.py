"""`foundryc capture --cache`: fetch the bundle, or make it, seal it and push it."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import NoReturn

from foundryc.cache.entry import seal
from foundryc.cache.flight import obtain
from foundryc.cache.key import key_of
from foundryc.cache.request import Request
from foundryc.cache.stores import open_store
from foundryrt.atomic import place
from foundryrt.console import note
from foundryrt.errors import FoundryError, install
from foundryrt.host.import_torch import import_torch
from foundryrt.parallel import available_threads
from foundryrt.progress import progress_bar

_COMMAND = (sys.executable, "-c", "from foundryc.cli import main; main()", "capture")
Capture = Callable[[Request, Path], None]
_EXIT = os._exit
_capturing: set[int] = set()
"""Processes in which a bundle is being made; one that is forked is none of them."""
_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory")
_WANTED = re.compile(r"[Tt]ried to allocate ([\d.]+ \w+)")


def through_cache(url: str, request: Request, output: Path, capture: Capture) -> dict[str, str]:
    """Have the requested bundle at `output`; its key, and "hit" or "captured"."""
    parts = request.parts()
    key = key_of(parts)

    def build(path: Path) -> None:
        if request.target == "host":
            # The key says so; torch's own choice would depend on the machine.
            _torch().set_num_threads(available_threads())
        capture(request, path)
        seal(path, parts)

    outcome = obtain(open_store(url), key, output, build, note)
    return {"key": key, "cache": outcome}


def capture_now(request: Request, path: Path) -> None:
    """Run the workload and write its bundle to `path`; FoundryError where it needs more memory."""
    _torch()
    from foundryc.elsewhere import Elsewhere, store
    from foundryc.recorder import Recorder

    settings = dataclasses.asdict(request.settings)
    with ExitStack() as closing:
        closing.enter_context(_enough_memory())
        closing.enter_context(_no_exit())
        update = closing.enter_context(progress_bar(0, "capturing:"))
        elsewhere = None
        if request.relocate and store() is None:
            folder = closing.enter_context(
                TemporaryDirectory(prefix=".capture-", dir=place(path).parent)
            )
            command = (*_COMMAND, "-o", str(path), *request.command)
            elsewhere = closing.enter_context(Elsewhere(command, Path(folder), note))
            update(0, "in another process, to compare")
            elsewhere.begin()
        recorder = Recorder(
            target=request.target,
            workload=request.workload,
            settings=settings,
            compile=request.compile,
            progress=lambda phase: update(0, phase),
            base=request.base,
            elsewhere=elsewhere,
            architectures=request.architectures,
        )
        closing.enter_context(recorder)
        update(0, "loading")
        request.module.record(recorder, request.settings)
        recorder.save(path, embed_weights=request.embed_weights)


def _exit(status: int) -> NoReturn:
    """`os._exit` where a bundle is being made: with status 0 it would seem to be there."""
    if os.getpid() in _capturing:
        note(f"error: os._exit({status}) was called, and no bundle is written; use sys.exit")
        status = 1
    _EXIT(status)


@contextmanager
def _no_exit() -> Iterator[None]:
    """Have `os._exit` be an error in this process, whichever thread calls it."""
    process = os.getpid()
    _capturing.add(process)
    os._exit = _exit
    try:
        yield
    finally:
        os._exit = _EXIT
        _capturing.discard(process)


def _torch() -> ModuleType:
    """torch, imported late: it takes seconds, which bad options and a hit need not wait for."""
    try:
        return import_torch()
    except ModuleNotFoundError as error:
        raise FoundryError(
            f"capturing needs {error.name}, which is not installed: {install('capture')}"
        ) from error


@contextmanager
def _enough_memory() -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch's own class is that of GPUs alone.
        if isinstance(error, RuntimeError) and not _MEMORY.search(str(error)):
            raise
        found = _WANTED.search(str(error))
        wanted = f" ({found[1]} at once)" if found else ""
        raise FoundryError(
            f"the workload needs more memory than is free here{wanted}; choose smaller sizes"
        ) from error
