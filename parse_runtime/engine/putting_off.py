"""Passes that are put off: their graphs are being made, or drafts that may share them written."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from math import inf

from parse_runtime.engine.packing import VERIFY
from parse_runtime.engine.protocols import Decoder, Target
from parse_runtime.engine.running import Running, wanted_of

_PATIENCE = 1.0
"""Seconds that a pass is put off at most; making all graphs of a bundle takes half of that."""


def late(due: Iterable[Running]) -> bool:
    """Whether one of these has waited for as long as it may."""
    return time.monotonic() > min((one.due_since for one in due), default=inf) + _PATIENCE


def put_off(kind: str, shares: Mapping[Running, int], target: Target, draft: Decoder) -> bool:
    """Whether a prefill or verification is for a later step, while other answers go on.

    `shares`: rows of it that are each answer's.
    """
    # The graph may never be there, where the driver has failed.
    if late(shares):
        return False
    with suppress(Exception):  # the pass meets it too, and whom it concerns is told
        if kind == VERIFY:
            return not target.ready_to_verify(wanted_of(shares))
        model = target if kind == "target" else draft
        return not model.ready([running.chunk(rows) for running, rows in shares.items()])
    return False
