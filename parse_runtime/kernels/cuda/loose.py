"""Drafted tokens that stay beside the model's own choices: one program a chain."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, side_by_side, wait


@opaque
def launch(tokens: Tensor, choices: Tensor, entropy: Tensor, window: int, least: float) -> Tensor:
    """`parse_runtime.kernels.loose.stay`, of entropies float32 [B * L] and their least one."""
    found = torch.empty_like(choices)
    chains, rows = tokens.shape
    _stay[(chains,)](
        *side_by_side(tokens, choices, entropy), found, rows, window, least,
        ROWS=triton.next_power_of_2(rows), num_warps=1, **OPTIONS,
    )  # fmt: skip
    return found


@triton.jit(do_not_specialize=["rows", "window"])
def _stay(tokens, choices, entropy, found, rows, window, least, ROWS: tl.constexpr):
    release()
    wait()
    row = tl.arange(0, ROWS)
    first = tl.program_id(0) * rows
    chosen = tl.load(choices + first + row, row < rows)
    drafted = tl.load(tokens + first + row + 1, row < rows - 1, other=-1)
    agrees = (drafted == chosen) & (row < rows - 1)
    # Of the tokens behind a row, as many as the window has.
    behind = (row[None, :] > row[:, None]) & (row[None, :] <= row[:, None] + window)
    followed = tl.sum((behind & agrees[None, :]).to(tl.int32), 1) == window
    unsure = tl.load(entropy + first + row, row < rows, other=0.0) >= least
    stays = agrees | (followed & unsure & (row < rows - 1 - window))
    tl.store(found + first + row, tl.where(stays, drafted, chosen), row < rows)
