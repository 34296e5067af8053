"""Where results are written, and a line on how far a benchmark is."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

RESULTS = Path(__file__).parent / "results"
Output = Annotated[
    Path,
    typer.Option("--output", "-o", metavar="FILE", dir_okay=False, help="Results, as JSON."),
]
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
        write_results(self._path, self._parts)


def write_results(path: Path, result: dict[str, Any]) -> None:
    """Results as indented JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def today() -> str:
    """The date in UTC, YYYY-MM-DD."""
    return datetime.now(UTC).date().isoformat()


def chosen(text: str, known: tuple[str, ...], option: str) -> list[str]:
    """The names of a comma-separated option; refuses those that are not known."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(
            f"no {unknown[0]!r}; known are {', '.join(known)}", param_hint=option
        )
    return names


def say(text: str) -> None:
    """A line on stderr, with the seconds since the beginning."""
    print(f"[{time.perf_counter() - _BEGUN:6.1f} s] {text}", file=sys.stderr, flush=True)
