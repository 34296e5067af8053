"""Workloads are found by entry point: a package adds one without any change here."""

from __future__ import annotations

from importlib.metadata import entry_points
from types import ModuleType

from foundryrt.errors import FoundryError, UsageError, install

_EXTRAS = {"torch": "capture", "safetensors": "capture", "gguf": "capture"}
"""Packages that are no workload's own; any other is in the extra of the workload's name."""


def names(group: str) -> list[str]:
    """Installed workloads of `foundryc.workloads` (capture) or `foundryrt.workloads` (run)."""
    return sorted({entry.name for entry in entry_points(group=group)})


def find(group: str, name: str) -> ModuleType:
    """The workload's module; UsageError where it is not installed, FoundryError where it breaks."""
    for entry in entry_points(group=group, name=name):
        try:
            module: ModuleType = entry.load()
        except ImportError as error:
            extra = _EXTRAS.get(error.name or "", name)
            raise FoundryError(
                f"workload {name!r} needs {error.name or error}, which is not installed: "
                f"{install(extra)}"
            ) from error
        return module
    known = ", ".join(names(group)) or "none"
    raise UsageError(f"no workload {name!r}; installed are {known}")
