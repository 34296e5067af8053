"""Rows and elements by their index, and rows put at one.

On CUDA by kernels of our own: torch's take structs whose unused words keep what was on the stack,
so that two captures differ, and are told how many rows a table has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rows_at(table: Tensor, index: Tensor, first: int = 0) -> Tensor:
    """The `first` rows of `table` [R, ...], then those at first + `index`, int64 [N]: all below R.

    Its rows lie one behind the other.
    """
    if table.is_cuda:
        from parse_runtime.kernels.cuda.gather import launch_rows_at

        return launch_rows_at(table, index, first)
    if not first:
        return table.index_select(0, index)
    return torch.cat((table[:first], table[first:].index_select(0, index)))


def put_rows(table: Tensor, index: Tensor, rows: Tensor) -> None:
    """Put `rows` [N, ...] into `table` [R, ...] at `index` int64 [N].

    Where an index is there twice, both rows are equal, or either stays.
    """
    if table.is_cuda:
        from parse_runtime.kernels.cuda.gather import launch_put_rows

        return launch_put_rows(table, index, rows)
    table.index_copy_(0, index, rows)


def chained(first: Tensor, second: Tensor, repeat: int = 1) -> Tensor:
    """[N + M * repeat, ...] of [N, ...] and [M, ...], each row of the second `repeat` times."""
    if first.is_cuda:
        from parse_runtime.kernels.cuda.gather import launch_chained

        return launch_chained(first, second, repeat)
    return torch.cat((first, second.repeat_interleave(repeat, 0) if repeat > 1 else second))


def widened(x: Tensor) -> Tensor:
    """Float32 of x [N, width]."""
    if x.is_cuda:
        from parse_runtime.kernels.cuda.gather import launch_widened

        return launch_widened(x)
    return x.float()


def elements_at(x: Tensor, index: Tensor) -> Tensor:
    """Elements [..., K] of the last dimension of `x` [..., L], by int64 of 0 to L - 1.

    `index` [..., K] may lack leading dimensions of x, which then have the same one.
    """
    if x.is_cuda:
        from parse_runtime.kernels.cuda.gather import launch_elements_at

        return launch_elements_at(x, index)
    return x.gather(-1, index.expand(*x.shape[:-1], -1))


def joined(parts: Sequence[Tensor], index: Tensor | None = None) -> Tensor:
    """[N, P * width]: columns of P <= 3 `parts` [T, width], or of their rows at `index` int64 [N].

    They lie in the order of the parts.
    """
    if parts[0].is_cuda:
        from parse_runtime.kernels.cuda.gather import launch_joined

        return launch_joined(parts, index)
    rows = parts if index is None else [part.index_select(0, index) for part in parts]
    return torch.cat(list(rows), dim=-1)
