"""Single flight: of many processes that ask for one bundle, one makes it and the others wait."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from foundryc.cache.errors import NotWritable, Poisoned, Unreachable
from foundryc.cache.stores.base import Store
from foundryrt.atomic import hold, place, remove_remains, temporary_name, writing
from foundryrt.errors import FoundryError, Unreadable

Say = Callable[[str], None]
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


def obtain(store: Store, key: str, output: Path, build: Callable[[Path], None], say: Say) -> str:
    """Have the bundle of `key` at `output`: "hit" where the store had it, "captured" where not.

    `build(path)` makes the sealed bundle at `path`. A poisoned entry is reported and replaced. A
    store that fails is reported and done without: a cache must not be what stops a build. `say`
    gets a line for each thing that a person wants to know of.
    """
    reported: set[str] = set()

    def report(error: Exception) -> None:
        if str(error) not in reported:
            reported.add(str(error))
            say(str(error))

    began, pause, told = time.monotonic(), _FIRST_PAUSE, 0.0
    while True:
        try:
            if _fetch(store, key, output, report):
                return "hit"
        except Unreadable as error:
            report(error)
        except Unreachable as error:
            report(error)
            break
        try:
            claim = store.claim(key)
        except Unreachable as error:
            report(error)
            break
        if claim is not None:
            with claim:
                return _make(store, key, output, build, report)
        waited = time.monotonic() - began
        if waited - told >= 5 or not told:
            say(f"waiting for another process that captures {key[:16]}… ({waited:.0f} s)")
            told = max(waited, 1e-9)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    return _make(store, key, output, build, report)


def _fetch(store: Store, key: str, output: Path, report: Callable[[Exception], None]) -> bool:
    with temporary(output) as path:
        try:
            if store.fetch(key, path):
                _put(path, output)
                return True
        except Poisoned as error:
            report(error)
    return False


def _make(
    store: Store,
    key: str,
    output: Path,
    build: Callable[[Path], None],
    report: Callable[[Exception], None],
) -> str:
    # Whoever had the claim before may have finished in the meantime.
    with contextlib.suppress(Unreachable, Unreadable, NotWritable):
        if _fetch(store, key, output, report):
            return "hit"
        # Nothing, or something that was just refused.
        if store.writable:
            store.evict(key)
    with temporary(output) as path:
        build(path)
        if store.writable:
            try:
                store.put(key, path)
            except (Unreachable, NotWritable) as error:
                report(error)
        _put(path, output)
    return "captured"


def _put(path: Path, output: Path) -> None:
    with writing(output):
        os.replace(path, place(output))


@contextmanager
def temporary(output: Path) -> Iterator[Path]:
    """A name beside `output` for a file that is moved there when it is whole.

    It lies in a folder that is locked while its process lives; what the dead left goes.
    """
    with writing(output):
        target = place(output)
        remove_remains(target)
        folder = temporary_name(target)
        folder.mkdir()
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        hold(lock)
        yield folder / output.name
    except FoundryError as error:
        # Of the name that somebody gave.
        error.args = (str(error).replace(str(folder / output.name), str(output)),)
        raise
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)
