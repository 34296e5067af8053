"""Claims for stores that cannot hold one: they count among the processes of one machine."""

from __future__ import annotations

import hashlib
import os
from contextlib import AbstractContextManager

from foundryc.cache.errors import Unreachable
from foundryc.cache.stores.lock import open_folder, try_lock
from foundryrt.remote.local import user_folder


def claim_here(url: str, key: str) -> AbstractContextManager[object] | None:
    """A lock in the user's cache folder, free again when its process ends."""
    path = user_folder("claims")
    name = hashlib.sha256(f"{url} {key}".encode()).hexdigest()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = open_folder(path)
        try:
            return try_lock(folder, name)
        finally:
            os.close(folder)
    except OSError as error:
        raise Unreachable(f"{path}: {error.strerror}") from error
