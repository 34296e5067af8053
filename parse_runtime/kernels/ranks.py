"""What several ranks make together: sums of their shares, and tables that each has a part of."""

from __future__ import annotations

import torch
from torch import Tensor

from foundryc.ranks import Ranks


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
