"""Sizes of the decode passes that are timed."""

from __future__ import annotations

from parse_runtime.signature.sizes import PassSizes

START = 512
"""Tokens before the first step."""


def sizes(model: str) -> PassSizes:
    """Of a model; small ones of toys."""
    batches = (1, 4) if model == "tiny" else (1, 16, 64)
    return PassSizes(max_len=2 * START, slots=batches[-1], decode=batches)
