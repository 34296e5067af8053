"""What made a bundle, for its manifest."""

from __future__ import annotations

from importlib import metadata

import torch

from foundryrt.errors import DISTRIBUTION


def producer(**others: str) -> dict[str, str]:
    """Versions of foundryc and torch, and `others`."""
    try:
        version = metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        version = "unknown"
    return {"foundryc": version, "torch": str(torch.__version__), **others}
