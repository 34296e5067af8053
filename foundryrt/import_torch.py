"""torch, imported without a look for garbage in what stays for good."""

from __future__ import annotations

import gc
import sys
from types import ModuleType

_own = False


def own_process() -> None:
    """Say that this process is a command's: what is there once torch is stays until it ends."""
    global _own
    _own = True


def import_torch() -> ModuleType:
    """torch. ModuleNotFoundError where it, or what it needs, is not installed.

    An import makes so many objects that looking through them takes a fourth of it, and, in a
    command, as long again when the process ends.
    """
    if "torch" in sys.modules:
        return sys.modules["torch"]
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        import torch
    finally:
        if _own:
            gc.freeze()
        if was_enabled:
            gc.enable()
    return torch
