"""Claims for places that cannot hold one: they count among the processes of one machine."""

from __future__ import annotations

import hashlib
import os
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout

from foundryc.cache.errors import Unreachable


def claim_here(url: str, key: str) -> AbstractContextManager[object] | None:
    """A lock in the user's cache folder, free again when its process ends."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "foundry" / "claims"
    name = hashlib.sha256(f"{url} {key}".encode()).hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / name).acquire(blocking=False)
    except Timeout:
        return None
    except OSError as error:
        raise Unreachable(f"{folder}: {error.strerror}") from error
