"""What several ranks make together: sums of their shares, and tables that each has a part of."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from foundryc.ranks import Ranks
from parse_runtime.kernels.linear import linear_parts
from parse_runtime.kernels.quantized import Weight
from parse_runtime.kernels.streamed import streams

if TYPE_CHECKING:
    from parse_runtime.kernels.cuda.shares import Sent

Added: TypeAlias = "Tensor | Sent"
"""What a norm adds to the residual: of several ranks a share, which may be on its way to all."""


def linear_shares(x: Tensor, weight: Weight, ranks: Ranks | None) -> Added:
    """`linear_parts`, of several ranks a share, for `add_rms_norm` to add up.

    On CUDA those of few rows are sent to all ranks at once, where the matrix is large.
    """
    if ranks is not None and streams(x):
        from parse_runtime.kernels.cuda.shares import send_product, sends

        sent = send_product(x, weight, ranks) if sends(weight) else None
        if sent is not None:
            return sent
    return linear_parts(x, weight)


def summed(x: Tensor, ranks: Ranks) -> Tensor:
    """Float32: the sum of what each rank gives, in the order of ranks: all have the same bits."""
    parts = ranks.all_gather(x.contiguous())
    if x.is_cuda:
        from parse_runtime.kernels.cuda.gather import launch_summed

        return launch_summed(parts)
    return parts.sum(0, dtype=torch.float32)


def side_by_side(x: Tensor, ranks: Ranks, width: int) -> Tensor:
    """[T, width]: the columns [T, N] of each rank side by side, cut off where they are too many."""
    parts = ranks.all_gather(x.contiguous())
    if x.is_cuda:
        from parse_runtime.kernels.cuda.gather import launch_columns

        return launch_columns(parts, width)
    return parts.transpose(0, 1).flatten(1)[:, :width].contiguous()


def first_of(ranks: Ranks, size: int) -> Tensor:
    """Int64 [1]: where this rank's part of a table begins, each rank having `size` entries."""
    if ranks.words.is_cuda:
        from parse_runtime.kernels.cuda.gather import launch_first

        return launch_first(ranks.words, size)
    return ranks.words[:1].to(torch.int64) * size


def own_rows(table: Tensor, index: Tensor, ranks: Ranks) -> Tensor:
    """Rows [N, K] of a table that each rank has a part of, `table`, by their number, int64 [N].

    Rows of other ranks are zero: summed over the ranks, all rows are there.
    """
    if table.is_cuda:
        from parse_runtime.kernels.cuda.gather import launch_rows_at

        return launch_rows_at(table, index, ranks=ranks)
    place = index - first_of(ranks, table.shape[0])
    there = (place >= 0) & (place < table.shape[0])
    rows = table.index_select(0, torch.where(there, place, 0))
    return torch.where(there[:, None], rows, 0.0)
