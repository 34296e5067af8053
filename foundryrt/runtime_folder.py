"""Where a user's processes leave what only this user's other processes may find."""

from __future__ import annotations

import os
import stat


def runtime_folder() -> str:
    """XDG_RUNTIME_DIR, or a folder of this user's in /tmp; it need not be there."""
    return os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/foundryrt-{os.getuid()}"


def make_runtime_folder() -> str:
    """`runtime_folder`, made; FoundryError where somebody else may write into it."""
    folder = runtime_folder()
    os.makedirs(folder, mode=0o700, exist_ok=True)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        from foundryrt.errors import FoundryError  # a command for a standby needs none of it

        raise FoundryError(f"{folder} is not this user's alone; set XDG_RUNTIME_DIR")
    return folder
