"""Attention of a few rows of each of many slots: decoding, chains and trees of drafts."""

from __future__ import annotations

from torch import Tensor

from foundryc.ranks import Ranks
from parse_runtime.kernels import masked
from parse_runtime.kernels.quantized import Weight
from parse_runtime.kernels.ranks import Added, linear_shares
from parse_runtime.kernels.rotate import Rotation
from parse_runtime.kernels.streamed import holds


def attend_step(
    q: Tensor, cache_layer: Tensor, tables: Tensor, slots: Tensor, cuts: Tensor, starts: Tensor,
    ancestors: Tensor, keys: int, length: int, *, lows: Tensor | None = None,
    scale: float | None = None, cap: float = 0.0,
) -> Tensor:  # fmt: skip
    """[B * L, H * D] of queries [B * L, H, D]: `length` L rows of each of B slots, side by side.

    Row i sees key k where lows[i] <= k < cuts[i], or, for 0 <= k - starts[i] < 64, where bit
    k - starts[i] of `ancestors` is set: causal bits for a chain, a node's path for a tree. Without
    `lows` the first range begins at 0. `cache_layer` and `tables` are those of `attend_rows`;
    only the first `keys` rows of a slot are read. `slots` int64 [B]; `cuts`, `starts`,
    `ancestors`, `lows` int64 [B * L]. A row that sees nothing is zero. `scale` and `cap` are those
    of `attend_rows`.

    Row-invariant on CUDA: for one `keys`, a row's bits depend on its query and on the keys it
    sees, not on B, L, the other rows or which blocks hold them. So a chain verified in one pass
    gives what decoding it token by token gives, bit for bit; a tree's row, whose ancestors lie
    elsewhere in the slot, gives it up to the rounding of sums in another order.
    """
    if q.is_cuda:
        from parse_runtime.kernels.cuda import attend_step as kernel

        return kernel.launch(
            q, cache_layer, tables, slots, cuts, starts, ancestors, keys, length, lows=lows,
            scale=scale, cap=cap,
        )  # fmt: skip
    visible = masked.below_or_ancestor(keys, cuts, starts, ancestors, lows)
    return masked.attend(q, masked.chosen(cache_layer, tables, slots, keys), visible, scale, cap)


def attend_step_parts(
    qkv: Tensor, rotation: Rotation, cache_layer: Tensor, tables: Tensor, slots: Tensor,
    cuts: Tensor, starts: Tensor, ancestors: Tensor, keys: int, length: int, weight: Weight,
    ranks: Ranks | None = None, *, lows: Tensor | None = None, scale: float | None = None,
    cap: float = 0.0,
) -> Added:  # fmt: skip
    """`rotate_store`, `attend_step` and `linear_shares` with a weight, in turn; the same bits.

    On CUDA one row of a small model takes two kernels for it. `slots` are different ones, but for
    padding: a row may be computed before the keys of the others have been stored.
    """
    if qkv.is_cuda:
        from parse_runtime.kernels.cuda import attend_step as kernel
        from parse_runtime.kernels.cuda.held import united_product
        from parse_runtime.kernels.cuda.unite import unite

        partial = kernel.rotated_partial(
            qkv, rotation, cache_layer, tables, slots, cuts, starts, ancestors, keys, length, lows,
            scale, cap,
        )  # fmt: skip
        held = united_product(partial, weight) if holds(qkv) else None
        return linear_shares(unite(partial), weight, ranks) if held is None else held
    q = rotation.store(qkv, cache_layer, tables, slots)
    x = attend_step(
        q, cache_layer, tables, slots, cuts, starts, ancestors, keys, length, lows=lows,
        scale=scale, cap=cap,
    )  # fmt: skip
    return linear_shares(x, weight, ranks)
