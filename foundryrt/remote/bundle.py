"""A bundle from a file or a URL."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from foundryrt.bundle.reader import Bundle
from foundryrt.remote.local import file_path, without_query

if TYPE_CHECKING:
    from foundryrt.trust import Trust


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether `path` names a bundle on another machine."""
    return isinstance(path, str) and "://" in path


def open_bundle(path: str | os.PathLike[str], trust: Trust | None = None) -> Bundle:
    """The bundle at `path`, a file or a URL, checked as by `Bundle.open`.

    A section of a bundle that is not here yet is fetched when it is first used, the others in the
    background (foundryrt/remote/copies.py). Errors are those of `Bundle.open`, and for a URL
    Unreachable and FoundryError where the copy cannot be kept.
    """
    if not is_url(path):
        return Bundle.open(path, trust)
    if (local := file_path(str(path))) is not None:
        return Bundle.open(local, trust)
    from foundryrt.remote.copies import copy_of, opening

    with opening:
        copy = copy_of(str(path))
        try:
            fetch = None if copy.complete else copy.fetch
            bundle = Bundle.map(copy.path, trust, fetch, without_query(str(path)))
        except BaseException:
            copy.discard()
            raise
    copy.fill(bundle.sections)
    return bundle
