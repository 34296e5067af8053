"""Sizes of the decode passes that are captured."""

from __future__ import annotations

from benchmarks.start.steps.model import batches
from parse_runtime.signature.sizes import PassSizes

START = 512
"""Tokens before the first step that is timed."""


def sizes(model: str, many: bool = False) -> PassSizes:
    """Of a model: those that are timed, small ones of toys, or as many as torch captures."""
    if many:
        own = tuple(batches(model))
        return PassSizes(max_len=64, slots=own[-1], decode=own)
    own = (1, 4) if model == "tiny" else (1, 16, 64)
    return PassSizes(max_len=2 * START, slots=own[-1], decode=own)
