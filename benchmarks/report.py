"""Results of a benchmark of several parts, written as they come, and a word on how far it is."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

_BEGUN = time.perf_counter()


class Report:
    """A file of results, part by part; parts that are not run keep what is in it.

    `about` is what the parts were measured on: device, date and the like.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self._path, self._about = path, about
        self._parts: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def save(self, part: str, found: dict[str, Any]) -> None:
        """Write a part, with what it was measured on; again where more of it is found."""
        self._parts[part] = {**self._about, **found}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._parts, indent=1) + "\n", encoding="utf-8")


def say(text: str) -> None:
    """A line on stderr, with the seconds since the beginning."""
    print(f"[{time.perf_counter() - _BEGUN:6.1f} s] {text}", file=sys.stderr, flush=True)
