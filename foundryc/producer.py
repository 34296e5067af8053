"""What made a bundle, for its manifest."""

from __future__ import annotations

import torch

from foundryrt import __version__


def producer(**others: str) -> dict[str, str]:
    """Versions of foundryc and torch, and `others`."""
    return {"foundryc": __version__, "torch": str(torch.__version__), **others}
