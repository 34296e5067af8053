"""What a study has measured so far, on disk: a line of JSON for each point, written as it comes.

A process that is killed while it writes leaves its last line cut off. Such a line is taken away
when the file is opened next, so that a point is there as a whole or not at all.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import BinaryIO

from foundryrt.errors import FoundryError, UsageError
from foundryrt.printable import reason
from otfs_pipeline.study.linklevel import Errors

_START = b'{"point": "'
"""What a line begins with, one that was cut off included."""


class Journal:
    """The points of the file at `path` by their keys; without a path they are in memory alone.

    UsageError where the file cannot be written or another study writes it, FoundryError where it
    holds something else.
    """

    def __init__(self, path: Path | None) -> None:
        self.points: dict[str, Errors] = {}
        self._file = _claimed(path) if path else None
        try:
            if self._file:
                self._read(self._file)
        except BaseException:
            self.close()
            raise

    def add(self, key: str, errors: Errors) -> None:
        """Keep a point; it is on the disk when this returns."""
        self.points[key] = errors
        if self._file is None:
            return
        line = json.dumps({"point": key, "errors": errors}, allow_nan=False) + "\n"
        try:
            self._file.write(line.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise FoundryError(
                f"{self._file.name}: {error.strerror}; the points before are kept"
            ) from error

    def close(self) -> None:
        """Let another study write the file."""
        if self._file:
            self._file.close()

    def _read(self, file: BinaryIO) -> None:
        file.seek(0)
        whole = 0
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n") and _START.startswith(line[: len(_START)]):
                break
            try:
                entry = json.loads(line)
                self.points[entry["point"]] = _checked(entry["errors"])
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                raise FoundryError(
                    f"{file.name}: line {number} is no point of a study ({reason(error)});"
                    " remove the file to begin anew"
                ) from error
            whole += len(line)
        file.truncate(whole)
        file.seek(whole)


def _claimed(path: Path) -> BinaryIO:
    try:
        file = open(path, "a+b")  # noqa: SIM115 (closed by the journal)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise UsageError(
            f"{path}: another study writes it ({error.strerror}); wait for its end, or give"
            " another --output"
        ) from error
    return file


def _checked(errors: Errors) -> Errors:
    """TypeError unless they are lists of numbers by receiver."""
    for values in errors.values():
        if not all(isinstance(value, float) for value in values):
            raise TypeError("errors that are no numbers")
    return errors
