"""Passes whose graphs are still being made, as after a switch of bundles."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress

from parse_runtime.engine.packing import VERIFY
from parse_runtime.engine.protocols import Decoder, Target
from parse_runtime.engine.running import Running, wanted_of

_PATIENCE = 1.0
"""Seconds that a pass is put off for its graph; making all of a bundle takes half of that."""


def put_off(kind: str, shares: Mapping[Running, int], target: Target, draft: Decoder) -> bool:
    """Whether a prefill or verification is for a later step, while other answers go on.

    `shares`: rows of it that are each answer's.
    """
    # The graph may never be there, where the driver has failed.
    if time.monotonic() > min(running.due_since for running in shares) + _PATIENCE:
        return False
    with suppress(Exception):  # the pass meets it too, and whom it concerns is told
        if kind == VERIFY:
            return not target.ready_to_verify(wanted_of(shares))
        model = target if kind == "target" else draft
        return not model.ready([running.chunk(rows) for running, rows in shares.items()])
    return False
