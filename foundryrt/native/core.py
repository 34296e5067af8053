"""Loading a native core, the shared library beside its binding."""

from __future__ import annotations

import ctypes
from pathlib import Path

from foundryrt.errors import DISTRIBUTION, FoundryError


def load_core(path: Path) -> ctypes.CDLL:
    """The library at `path`; FoundryError where it was not built or does not load."""
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise FoundryError(
            f"the native core {path} cannot be loaded ({error}); install {DISTRIBUTION} again, or"
            " run cmake -S . -B build && cmake --build build in a checkout"
        ) from error
