"""torch, imported without a look for garbage in what stays for good."""

from __future__ import annotations

import gc
import sys
from types import ModuleType

from foundryrt.process import is_command


def import_torch() -> ModuleType:
    """torch. ModuleNotFoundError where it, or what it needs, is not installed.

    An import makes so many objects that looking through them takes a fourth of it, and, in a
    command, as long again when the process ends.
    """
    known = sys.modules.get("torch")
    if known is not None:
        return known
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        import torch
    finally:
        if is_command():
            gc.freeze()
        if was_enabled:
            gc.enable()
    return torch
