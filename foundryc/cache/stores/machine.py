"""Claims for stores that cannot hold one: they count among the processes of one machine."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager

from filelock import FileLock, Timeout

from foundryc.cache.errors import Unreachable
from foundryrt.remote.local import user_folder


def claim_here(url: str, key: str) -> AbstractContextManager[object] | None:
    """A lock in the user's cache folder, free again when its process ends."""
    folder = user_folder("claims")
    name = hashlib.sha256(f"{url} {key}".encode()).hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / name).acquire(blocking=False)
    except Timeout:
        return None
    except OSError as error:
        raise Unreachable(f"{folder}: {error.strerror}") from error
