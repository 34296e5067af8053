"""Scalings of rotary frequencies for longer contexts, as divisors of the plain frequencies."""

from __future__ import annotations

import math


def llama3_divisors(
    head_dim: int, theta: float, factor: float, low: float, high: float, original: int
) -> tuple[float, ...]:
    """Llama 3.1's frequency scaling as divisors of the plain frequencies.

    Wavelengths above original / low are stretched by `factor`, those below original / high are
    kept, and between them the frequency is interpolated.
    """
    divisors = []
    for i in range(head_dim // 2):
        wavelength = 2 * math.pi * theta ** (2 * i / head_dim)
        kept = (original / wavelength - low) / (high - low)
        kept = min(max(kept, 0.0), 1.0)
        divisors.append(1 / ((1 - kept) / factor + kept))
    return tuple(divisors)


def yarn_divisors(
    head_dim: int,
    theta: float,
    factor: float,
    original: float,
    fast: float = 32.0,
    slow: float = 1.0,
    truncate: bool = True,
) -> tuple[float, ...]:
    """YaRN's scaling (Peng et al., arXiv 2309.00071).

    A frequency that turns more than `fast` times in `original` positions is kept, one that turns
    less than `slow` times is divided by `factor`, and between them it is interpolated; `truncate`
    rounds the bounds to whole frequencies.
    """

    def index(turns: float) -> float:
        """Of the frequency that turns so often in the original context."""
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = index(fast), index(slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = high - low or 0.001
    divisors = []
    for i in range(head_dim // 2):
        scaled = min(max((i - low) / width, 0.0), 1.0)
        divisors.append(1 / (scaled / factor + 1 - scaled))
    return tuple(divisors)


def yarn_magnitude(factor: float, weight: float = 1.0) -> float:
    """What YaRN multiplies queries and keys by, so that scores stay as sharp as in training."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
