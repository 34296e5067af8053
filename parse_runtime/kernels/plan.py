"""Numbers of the rows of a pass that follow from its plan."""

from __future__ import annotations

import torch
from torch import Tensor


def places_of(rows: Tensor, slots: Tensor, length: int) -> Tensor:
    """Int64 [T]: where `rows` [T] are in a tensor whose slots, `length` long, lie end to end.

    T / B rows in turn belong to each of `slots` int64 [B].
    """
    if rows.is_cuda:
        from parse_runtime.kernels.cuda.plan import launch_places

        return launch_places(rows, slots, length)
    each = rows.shape[0] // slots.shape[0]
    return rows + (slots.repeat_interleave(each) if slots.shape[0] > 1 else slots) * length


def windowed(positions: Tensor, rows: Tensor, starts: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Of rows that see the last `window` tokens of what they saw, the lowest ones: two int64 [T].

    Of `Rows` below the cut, from 0 on, and from their `starts` on.
    """
    if rows.is_cuda:
        from parse_runtime.kernels.cuda.plan import launch_windowed

        return launch_windowed(positions, rows, starts, window)
    lows = (positions - (window - 1)).clamp(min=0)
    return lows, torch.maximum(starts, rows - (window - 1))


def following(
    tokens: Tensor, rows: Tensor, max_len: int, ends: tuple[Tensor, Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The tokens after each of `tokens`, and the rows that a head keeps: int64 [T] both.

    Rows beyond `max_len` are kept there. `ends`: rows that end a prompt, the tokens after these,
    -1 where it is to be the sampled one, and those sampled, int64 [N] each. Of equal ends either
    counts.
    """
    if rows.is_cuda:
        from parse_runtime.kernels.cuda.plan import launch_following

        return launch_following(tokens, rows, max_len, ends)
    found = torch.cat((tokens[1:], tokens[:1]))
    if ends is not None:
        wanted, after, sampled = ends
        found = found.index_copy(0, wanted, torch.where(after < 0, sampled, after))
    return found, rows.clamp(max=max_len)
