"""Versions of what is installed, without importing it."""

from __future__ import annotations

import ast
import importlib.util
from functools import lru_cache
from importlib import metadata
from pathlib import Path

ABSENT = "not installed"


def version(distribution: str) -> str:
    """The installed version, or ABSENT."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ABSENT


@lru_cache(maxsize=1)
def torch_version() -> dict[str, str]:
    """`__version__` and `cuda` of torch/version.py: the metadata leaves out the build (+cu130)."""
    found = {"__version__": ABSENT, "cuda": ABSENT}
    spec = importlib.util.find_spec("torch")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        tree = ast.parse((Path(folder) / "version.py").read_text("utf-8"))
        for node in tree.body:
            target = node.targets[0] if isinstance(node, ast.Assign) else None
            target = node.target if isinstance(node, ast.AnnAssign) else target
            value = getattr(node, "value", None)
            if isinstance(target, ast.Name) and isinstance(value, ast.Constant):
                found[target.id] = str(value.value or "none")
    return found
