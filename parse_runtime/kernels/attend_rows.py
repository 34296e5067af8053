"""Attention of many rows a slot: prefill, and verification of many prefixes at once."""

from __future__ import annotations

from torch import Tensor

from parse_runtime.kernels import masked


def attend_rows(
    q: Tensor, cache_layer: Tensor, tables: Tensor, slots: Tensor, rows: Tensor, cuts: Tensor,
    starts: Tensor, keys: int, *, lows: Tensor | None = None, scale: float | None = None,
    cap: float = 0.0,
) -> Tensor:  # fmt: skip
    """[T, H * D] of queries [T, H, D].

    Row i sees key k where lows[i] <= k < cuts[i], or starts[i] <= k <= rows[i]. Without `lows`
    the first range begins at 0; with them a row has a sliding window.

    `cache_layer` [2, N, 16, KV, D] holds keys and values in N blocks, already written and finite;
    row r of slot s is row r % 16 of block tables[s, r // 16] (`tables` int32 [S, R]). Only the
    first `keys` rows of a slot are read. `slots` int64 [B], of which T / B rows in turn belong to
    each; `rows`, `cuts`, `starts`, `lows` int64 [T]. H is a multiple of KV: query head h reads key
    head h // (H // KV). A row that sees nothing is zero. Scores are multiplied by `scale`
    (D ** -0.5 unless given), and with a `cap` they become cap * tanh(score / cap) (Gemma 2, arXiv
    2408.00118). Float32 is computed in float32, bfloat16 accumulates in float32.
    """
    if q.is_cuda:
        from parse_runtime.kernels.cuda import attend_rows as kernel

        return kernel.launch(
            q, cache_layer, tables, slots, rows, cuts, starts, keys, lows=lows, scale=scale,
            cap=cap,
        )  # fmt: skip
    visible = masked.below_or_own(keys, rows, cuts, starts, lows)
    return masked.attend(q, masked.chosen(cache_layer, tables, slots, keys), visible, scale, cap)
