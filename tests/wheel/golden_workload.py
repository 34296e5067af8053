"""Runs artifacts/v1-host-steps.fdy; the test installs this file and an entry point for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from foundryrt import Session
from foundryrt.options import option


@dataclass(frozen=True)
class Options:
    """Options of `foundryrt run`."""

    first: int = option(1, "First number of x.")


def run(session: Session, options: Options, json: bool) -> dict[str, Any]:
    """y = x w + sum of x over the batch, for a batch of 4."""
    x = np.arange(options.first, options.first + 16).reshape(4, 4)
    session.write("x4", x)
    graph = session.graph("step", batch=4)
    graph.launch()
    return {"y": graph.read("y").tolist()}
