"""Operators that count from where a storage begins, as calls that do not.

In a replay all tensors share one storage: there, an offset into a storage is one into the whole
arena, and a clone of a storage one of the arena. Views of the recorded storage say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def _clone_preserving(x: Tensor) -> Tensor:
    """A clone with the strides of `x`, gaps included, as ATen makes it for the scatters below."""
    if torch._debug_has_internal_overlap(x) == 1:
        return x.clone()
    elements = x.untyped_storage().nbytes() // x.element_size()
    whole = x.as_strided((elements,), (1,), 0).clone()
    return whole.as_strided(x.shape, x.stride(), x.storage_offset())


def _as_strided_copy(
    x: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor:
    return x.as_strided(size, stride, storage_offset).clone(memory_format=torch.contiguous_format)


def _as_strided_scatter(
    x: Tensor,
    src: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    storage_offset: int | None = None,
) -> Tensor:
    out = _clone_preserving(x)
    out.as_strided(size, stride, storage_offset).copy_(src)
    return out


def _copy(x: Tensor, src: Tensor, non_blocking: bool = False) -> Tensor:
    return _clone_preserving(x).copy_(src)


def _scatter(view: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def scatter(x: Tensor, src: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out = _clone_preserving(x)
        part = view(out, *args, **kwargs)
        if part.shape != src.shape:
            raise ValueError(f"a tensor of {tuple(src.shape)} for a part of {tuple(part.shape)}")
        part.copy_(src)
        return out

    return scatter


DECOMPOSED: dict[str, Callable[..., Tensor]] = {
    "aten::as_strided_copy": _as_strided_copy,
    "aten::as_strided_scatter": _as_strided_scatter,
    "aten::copy": _copy,
    "aten::select_scatter": _scatter(torch.ops.aten.select.int),
    "aten::slice_scatter": _scatter(torch.ops.aten.slice.Tensor),
    "aten::diagonal_scatter": _scatter(torch.ops.aten.diagonal.default),
}
