"""Which memory tensors of one storage share."""

from __future__ import annotations

from torch import Tensor

from foundryrt.host.arena import extent


def is_disjoint(t: Tensor) -> bool:
    """Whether each element has memory of its own; False also for some layouts that nobody uses."""
    if t.numel() < 2 or t.is_contiguous():
        return True
    end = 0
    for step, n in sorted((step, n) for n, step in zip(t.shape, t.stride(), strict=True) if n > 1):
        if step <= end:
            return False
        end += (n - 1) * step
    return True


def overlap(x: Tensor, y: Tensor) -> bool:
    (a, b), (c, d) = _range(x), _range(y)
    return a < d and c < b


def _range(t: Tensor) -> tuple[int, int]:
    begin = int(t.storage_offset()) * t.itemsize
    return begin, begin + extent(tuple(t.shape), t.stride(), t.itemsize)


def is_same(x: Tensor, y: Tensor) -> bool:
    return _range(x) == _range(y) and x.shape == y.shape and x.stride() == y.stride()
