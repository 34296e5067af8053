"""CUDA's libraries in the wheels that torch needs."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def installed(library: str) -> list[str]:
    """Paths of `library`, such as libnvrtc, in the first folder that has it, oldest first."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        found = sorted(Path(folder).glob(f"*/lib/{library}.so.1[3-9]"))
        if found:
            return [str(path) for path in found]
    return []
