"""Flash attention of many rows of each slot, masked by two integers a row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, side_by_side, wait

LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class Tiles:
    """Query rows (tokens times heads of a group) and keys of a tile; warps; pipeline stages."""

    queries: int
    keys: int
    warps: int
    stages: int


@opaque
def launch(
    q: Tensor, cache_layer: Tensor, tables: Tensor, slots: Tensor, rows: Tensor, cuts: Tensor,
    starts: Tensor, keys: int, tiles: Tiles | None = None, lows: Tensor | None = None,
    scale: float | None = None, cap: float = 0.0,
) -> Tensor:  # fmt: skip
    """`parse_runtime.kernels.attend_rows.attend_rows`."""
    count, heads, head_dim = q.shape
    block, kv_heads = cache_layer.shape[2:4]
    group = heads // kv_heads
    of_slot = count // slots.shape[0]
    tiles = tiles or choose(q.dtype, head_dim)
    # A tile never has rows of two slots.
    blocks = triton.cdiv(of_slot * group, tiles.queries)
    out = torch.empty(count, heads * head_dim, dtype=q.dtype, device=q.device)
    rows, cuts, starts = side_by_side(rows, cuts, starts)
    lows = None if lows is None else lows.contiguous()
    if q.stride(2) != 1:
        q = q.contiguous()
    _attend[kv_heads, blocks * slots.shape[0]](
        q, cache_layer[0], cache_layer[1], out, tables, slots, rows, cuts, starts, lows,
        of_slot, blocks, keys, tables.shape[1], (scale or head_dim**-0.5) * LOG2_E,
        q.stride(0), q.stride(1), cache_layer.stride(1),
        KV_ROW=cache_layer.stride(2), KV_HEAD=cache_layer.stride(3), BLOCK=block,
        GROUP=group, HEAD_DIM=head_dim,
        WIDTH=max(16, triton.next_power_of_2(head_dim)), QUERIES=tiles.queries, KEYS=tiles.keys,
        CAP=cap * LOG2_E, num_warps=tiles.warps, num_stages=tiles.stages, **OPTIONS,
    )  # fmt: skip
    return out


def choose(dtype: torch.dtype, head_dim: int) -> Tiles:
    """Tiles by type (benchmarks/results/parse_tiles.json, parse_long_tiles.json)."""
    if dtype == torch.float32:
        # Without matrix units for float32, larger tiles spill registers.
        return Tiles(32, 32, 4, 2) if head_dim <= 64 else Tiles(16, 16, 4, 2)
    return Tiles(64, 64, 4, 2)


@triton.jit(do_not_specialize=["of_slot", "blocks", "keys"])
def _attend(
    q, k, v, out, tables, slots, rows, cuts, starts, lows,
    of_slot, blocks, keys, table_blocks, scale,
    q_token, q_head, kv_block,
    KV_ROW: tl.constexpr, KV_HEAD: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    CAP: tl.constexpr,
):  # fmt: skip
    release()
    wait()
    head = tl.program_id(0)
    # Later rows see more keys as a rule, and start first.
    block = tl.num_programs(1) - 1 - tl.program_id(1)
    place = block // blocks
    query = block % blocks * QUERIES + tl.arange(0, QUERIES)
    token, member = place * of_slot + query // GROUP, head * GROUP + query % GROUP
    valid = query < of_slot * GROUP
    row = tl.load(rows + token, mask=valid, other=-1).to(tl.int32)
    cut = tl.load(cuts + token, mask=valid, other=0).to(tl.int32)
    start = tl.load(starts + token, mask=valid, other=0).to(tl.int32)

    d = tl.arange(0, WIDTH)
    inside = valid[:, None] & (d < HEAD_DIM)[None, :]
    x = tl.load(q + token[:, None] * q_token + member[:, None] * q_head + d, inside, other=0.0)
    table = tables + tl.load(slots + place) * table_blocks
    k += head * KV_HEAD
    v += head * KV_HEAD

    # Keys below every cut need no mask; then come those below some cut, and beyond the last cut
    # only the span from the first own start, which for suffixes lies far off in scratch rows.
    most = tl.minimum(tl.max(cut), keys)
    least = tl.minimum(tl.min(tl.where(valid, cut, keys)), keys)
    open_end = least // KEYS * KEYS
    begin = 0
    if lows is not None:
        # Every tile of a window is masked, and nothing below the lowest one is read.
        low = tl.load(lows + token, mask=valid, other=0).to(tl.int32)
        first_seen = tl.minimum(tl.where(low < cut, low, keys), tl.where(start <= row, start, keys))
        begin = tl.minimum(tl.min(tl.where(valid, first_seen, keys)), most) // KEYS * KEYS
        open_end = begin
    cut_end = tl.cdiv(most, KEYS) * KEYS
    own_end = tl.minimum(tl.max(row) + 1, keys)
    own_first = tl.maximum(tl.min(tl.where(valid & (row >= cut_end), start, keys)), cut_end)

    top = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    acc = tl.zeros([QUERIES, WIDTH], tl.float32)
    for first in tl.range(begin, open_end, KEYS):
        key = first + tl.arange(0, KEYS)
        places = row_places(table, key, keys, kv_block, KV_ROW, BLOCK)
        kt = _load(k + places, key, d, keys, HEAD_DIM, WIDTH, False)
        scores = capped(tl.dot(x, kt.T, input_precision="ieee"), scale, CAP)
        new = tl.maximum(top, tl.max(scores, 1) * scale)
        p = tl.exp2(scores * scale - new[:, None])
        fade = tl.exp2(top - new)
        total = total * fade + tl.sum(p, 1)
        vt = _load(v + places, key, d, keys, HEAD_DIM, WIDTH, False)
        acc = tl.dot(p.to(vt.dtype), vt, acc * fade[:, None], input_precision="ieee")
        top = new
    masked = (cut_end - open_end) // KEYS
    own = tl.cdiv(tl.maximum(own_end - own_first, 0), KEYS)
    for i in tl.range(0, masked + own):
        first = tl.where(i < masked, open_end + i * KEYS, own_first + (i - masked) * KEYS)
        key = first + tl.arange(0, KEYS)
        places = row_places(table, key, keys, kv_block, KV_ROW, BLOCK)
        kt = _load(k + places, key, d, keys, HEAD_DIM, WIDTH, True)
        scores = capped(tl.dot(x, kt.T, input_precision="ieee"), scale, CAP)
        mine = (key[None, :] >= start[:, None]) & (key[None, :] <= row[:, None])
        below = key[None, :] < cut[:, None]
        if lows is not None:
            below = below & (key[None, :] >= low[:, None])
        seen = (below | mine) & (key < keys)[None, :]
        scores = tl.where(seen, scores, float("-inf"))
        new = tl.maximum(top, tl.max(scores, 1) * scale)
        # A row that has seen nothing so far must not meet inf - inf.
        level = tl.where(new == float("-inf"), 0.0, new)
        p = tl.exp2(scores * scale - level[:, None])
        fade = tl.exp2(top - level)
        total = total * fade + tl.sum(p, 1)
        vt = _load(v + places, key, d, keys, HEAD_DIM, WIDTH, True)
        acc = tl.dot(p.to(vt.dtype), vt, acc * fade[:, None], input_precision="ieee")
        top = new

    acc /= tl.where(total > 0, total, 1.0)[:, None]
    at = token[:, None].to(tl.int64) * (tl.num_programs(0) * GROUP) + member[:, None]
    tl.store(out + at * HEAD_DIM + d, acc.to(out.dtype.element_ty), inside)


@triton.jit
def capped(scores, scale, CAP: tl.constexpr):
    """Scores s such that s * scale is CAP * tanh of what it was over CAP; itself where CAP is 0."""
    if CAP > 0:
        rate = scale / CAP
        return (2 * tl.sigmoid(2 * scores * rate) - 1) / rate
    else:
        return scores


@triton.jit
def row_places(table, key, end, kv_block, KV_ROW: tl.constexpr, BLOCK: tl.constexpr):
    """Int64 offsets of rows of a slot by its table, which is not read from row `end` on."""
    block = tl.load(table + key // BLOCK, key < end, other=0)
    return block.to(tl.int64) * kv_block + key % BLOCK * KV_ROW


@triton.jit
def _load(
    rows, key, d, keys, HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr, BOUNDED: tl.constexpr
):  # fmt: skip
    """[KEYS, WIDTH] rows of keys or values; zero past the end of a head, and of the keys."""
    places = rows[:, None] + d[None, :]
    if BOUNDED:
        return tl.load(places, (key < keys)[:, None] & (d < HEAD_DIM)[None, :], other=0.0)
    elif HEAD_DIM < WIDTH:
        return tl.load(places, tl.broadcast_to((d < HEAD_DIM)[None, :], places.shape), other=0.0)
    else:
        return tl.load(places)
