"""Paths as a bundle has them: without whose home folder they were in."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def without_home(path: str) -> str:
    """An absolute path in the home folder with `~` for that; any other text as it is."""
    with suppress(RuntimeError):  # there is no home folder
        for home in (Path.home(), Path.home().resolve()):
            if home != Path(home.anchor) and Path(path).is_relative_to(home):
                return str("~" / Path(path).relative_to(home))
    return path
