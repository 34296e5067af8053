"""What passes found, as the engine takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundryrt.protocols import Launchable
from parse_runtime.engine.batch import Chunk
from parse_runtime.engine.protocols import Logits


def prefilled(
    graph: Launchable, chunks: Sequence[Chunk], first: int = 0
) -> list[int | Logits | None]:
    """Of a pass of prompts that was launched, as `parse_runtime.engine.protocols.Prefilled`.

    `first`: how many outputs are before those of the prompts.
    """
    ended = [chunk for chunk in chunks if chunk.following is None]
    tokens: list[int] = graph.read("token")[first:].tolist() if ended else []
    # Large, and read only where somebody asks for them.
    scored = any(chunk.scored for chunk in ended)
    logits: Any = graph.read("logits")[first:] if scored else None
    result: list[int | Logits | None] = []
    for i, chunk in enumerate(chunks):
        if chunk.following is not None:
            result.append(None)
        else:
            result.append(floats(logits[i]) if chunk.scored else tokens[i])
    return result


def floats(row: NDArray[Any]) -> Logits:
    """Float32 of logits in the model's dtype; bfloat16 is read as its bits."""
    if row.dtype == np.uint16:
        return (row.astype(np.uint32) << 16).view(np.float32)
    return row.astype(np.float32)
