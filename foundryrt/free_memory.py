"""How much of this machine's memory a process may still take."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CONTROL_GROUP = Path("/sys/fs/cgroup")


def free_memory() -> int | None:
    """Bytes that are free, or that the kernel would free; None where it does not say.

    In a container with a limit of its own no more than what that leaves.
    """
    found = None
    with contextlib.suppress(OSError):
        available = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(), re.MULTILINE)
        found = int(available[1]) * 1024 if available else None
    with contextlib.suppress(OSError, ValueError):
        # "max" where there is no limit.
        limit = int(Path(_CONTROL_GROUP, "memory.max").read_text())
        used = int(Path(_CONTROL_GROUP, "memory.current").read_text())
        parts = Path(_CONTROL_GROUP, "memory.stat").read_text()
        # Cached files count as used, and go where memory is asked for.
        cached = sum(map(int, re.findall(r"^(?:in)?active_file (\d+)$", parts, re.MULTILINE)))
        left = max(limit - used + cached, 0)
        found = left if found is None else min(found, left)
    return found
