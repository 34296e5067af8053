"""Shares of counts with their confidence."""

from __future__ import annotations

import math

_Z = 1.959964
"""Of 95 %."""


def share(hits: int, count: int) -> dict[str, float | int]:
    """Hits of count with Wilson's interval at 95 %; nothing is known of a count of 0."""
    if not count:
        return {"hits": 0, "count": 0}
    p, z2 = hits / count, _Z**2
    middle = (p + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z * math.sqrt(p * (1 - p) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return {
        "share": round(p, 5),
        "low": round(max(middle - half, 0.0), 5),
        "high": round(min(middle + half, 1.0), 5),
        "hits": hits,
        "count": count,
    }
