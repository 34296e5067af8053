"""Split-key attention of a few rows of each slot: partial sums of fixed spans, then their union.

Every program computes a span's partial sums in the same way, and spans are united in
ascending order, so that a row's bits depend on its query and on the keys it sees alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.attend_rows import LOG2_E, capped
from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, side_by_side, wait
from parse_runtime.kernels.cuda.rotate_group import prepared, rotate_group, row_place, sizes
from parse_runtime.kernels.cuda.unite import Partial, bit_length, unite
from parse_runtime.kernels.rotate import Rotation

ROTATED = (
    "parts", "positions", "frequencies", "cache", "rows", "q_norm", "k_norm", "eps", "offset",
    "kv_stride", "PARTS", "HEADS", "PAIRS",
)  # fmt: skip


@dataclass(frozen=True)
class Tiles:
    """Keys of a span; query rows and keys of a tile; warps; stages; programs that fill a device.

    All of these but the last decide a row's bits, so they may depend on what all passes of a model
    share. A span is a power of two of keys, at least a tile's; a tile has whole blocks of the
    caches. `registers` bounds those of a thread: with fewer than the compiler would take, more
    programs share a multiprocessor.
    """

    span: int
    queries: int
    keys: int
    warps: int
    stages: int
    programs: int
    registers: int | None = None


@opaque
def launch(
    q: Tensor, cache_layer: Tensor, tables: Tensor, slots: Tensor, cuts: Tensor, starts: Tensor,
    ancestors: Tensor, keys: int, length: int, tiles: Tiles | None = None,
    lows: Tensor | None = None, scale: float | None = None, cap: float = 0.0,
) -> Tensor:  # fmt: skip
    """`parse_runtime.kernels.attend_step.attend_step`."""
    return unite(partial(
        q, cache_layer, tables, slots, cuts, starts, ancestors, keys, length, tiles, lows, scale,
        cap,
    ))  # fmt: skip


def partial(
    q: Tensor, cache_layer: Tensor, tables: Tensor, slots: Tensor, cuts: Tensor, starts: Tensor,
    ancestors: Tensor, keys: int, length: int, tiles: Tiles | None = None,
    lows: Tensor | None = None, scale: float | None = None, cap: float = 0.0,
    rotation: Rotation | None = None,
) -> Partial:  # fmt: skip
    """The spans of `attend_step`, not united; with a rotation `q` is as `rotate_store` has it."""
    rotated: dict[str, Any] = dict.fromkeys(ROTATED)
    if rotation is not None:
        parts, group, q = prepared(q, cache_layer)
        rotated = dict(zip(ROTATED, (
            parts, *side_by_side(rotation.positions), rotation.inverse_frequencies, cache_layer,
            *side_by_side(rotation.rows), *(rotation.norms or (None, None)), rotation.eps,
            rotation.offset, cache_layer.stride(0), parts.shape[0],
            *sizes(group, q.shape[2]).values(),
        ), strict=True))  # fmt: skip
    count, heads, head_dim = q.shape
    block, kv_heads = cache_layer.shape[2:4]
    group, batch = heads // kv_heads, count // length
    tiles = tiles or choose(q.dtype, keys)
    spans = triton.cdiv(keys, tiles.span)
    query_blocks = triton.cdiv(group * length, tiles.queries)
    share = min(spans, triton.cdiv(tiles.programs, kv_heads * batch * query_blocks))
    slots, cuts, starts, ancestors = side_by_side(slots, cuts, starts, ancestors)
    lows = None if lows is None else lows.contiguous()
    if q.stride(2) != 1:
        q = q.contiguous()
    sums = torch.empty(count, heads, spans, head_dim, dtype=torch.float32, device=q.device)
    totals = torch.empty(2, count, heads, spans, dtype=torch.float32, device=q.device)
    width = max(16, triton.next_power_of_2(head_dim))
    bound = {} if tiles.registers is None else {"maxnreg": tiles.registers}
    _partial[query_blocks * share, kv_heads, batch](
        q, cache_layer[0], cache_layer[1], sums, totals[0], totals[1],
        tables, slots, cuts, starts, ancestors, lows, length, keys, spans, share,
        tables.shape[1], (scale or head_dim**-0.5) * LOG2_E,
        q.stride(0), q.stride(1), cache_layer.stride(1), **rotated,
        KV_ROW=cache_layer.stride(2), KV_HEAD=cache_layer.stride(3), BLOCK=block,
        GROUP=group, HEAD_DIM=head_dim, WIDTH=width,
        SPAN=tiles.span, QUERIES=tiles.queries, KEYS=tiles.keys,
        CAP=cap * LOG2_E, num_warps=tiles.warps, num_stages=tiles.stages, **bound, **OPTIONS,
    )  # fmt: skip
    return Partial(
        sums, totals[0], totals[1], keys, tiles.span, q.dtype, cuts, starts, ancestors, lows
    )


@opaque
def rotated_partial(
    qkv: Tensor, rotation: Rotation, cache_layer: Tensor, tables: Tensor, slots: Tensor,
    cuts: Tensor, starts: Tensor, ancestors: Tensor, keys: int, length: int,
    lows: Tensor | None = None, scale: float | None = None, cap: float = 0.0,
    tiles: Tiles | None = None,
) -> Partial:  # fmt: skip
    """`rotate_store` and `partial`: one kernel where a slot has one row."""
    numbers = cuts, starts, ancestors, keys, length, tiles, lows, scale, cap
    if length == 1:  # every program of a slot rotates it for itself
        return partial(qkv, cache_layer, tables, slots, *numbers, rotation)
    q = rotation.store(qkv, cache_layer, tables, slots)
    return partial(q, cache_layer, tables, slots, *numbers)


def choose(dtype: torch.dtype, keys: int) -> Tiles:
    """Tiles for a number of keys that may be read (benchmarks/results/parse_tiles.json)."""
    span = 128 if keys <= 1024 else 256 if keys <= 6144 else 512
    if dtype == torch.float32:
        return Tiles(span, 16, 32, 4, 2, 528)
    # Two warps are faster in decode steps of many slots, but rotate in sums of another order than
    # `rotate_store` (parse_step_tiles.json).
    return Tiles(span, 16, 64, 4, 3, 1056)


# Their values, and where parts of a buffer begin, depend on the rows of a pass and would choose
# other machine code, and so perhaps other bits.
@triton.jit(do_not_specialize=["tops", "totals", "length", "keys", "spans", "share"])
def _partial(
    q, k, v, sums, tops, totals,
    tables, slots, cuts, starts, ancestors, lows, length, keys, spans, share, table_blocks, scale,
    q_token, q_head, kv_block,
    KV_ROW: tl.constexpr, KV_HEAD: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr, SPAN: tl.constexpr, QUERIES: tl.constexpr,
    KEYS: tl.constexpr, CAP: tl.constexpr,
    parts, positions, frequencies, cache, rows, q_norm, k_norm, eps, offset, kv_stride,
    PARTS: tl.constexpr, HEADS: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    release()
    wait()
    block, part = tl.program_id(0) // share, tl.program_id(0) % share
    head, slot = tl.program_id(1), tl.program_id(2)
    table = tables + tl.load(slots + slot) * table_blocks
    query = block * QUERIES + tl.arange(0, QUERIES)
    token, member = slot * length + query // GROUP, head * GROUP + query % GROUP
    valid = query < length * GROUP
    cut = tl.load(cuts + token, mask=valid, other=0).to(tl.int32)
    start = tl.load(starts + token, mask=valid, other=0).to(tl.int32)
    bits = tl.load(ancestors + token, mask=valid, other=0)
    if lows is not None:
        floor = tl.load(lows + token, mask=valid, other=0).to(tl.int32)
    if PARTS is not None:
        # Every program writes the row's query heads, key and value, to read its own words. What is
        # asked for above comes meanwhile.
        cache += row_place(table, tl.load(rows + slot), kv_block, KV_ROW, BLOCK)
        rotate_group(
            slot, head, tl.num_programs(2), tl.num_programs(1),
            parts, positions, frequencies, q, cache, q_norm, k_norm, eps, offset,
            kv_stride, KV_HEAD, PARTS, GROUP, HEAD_DIM // 2, HEADS, PAIRS,
        )  # fmt: skip
        tl.debug_barrier()
    low, high = bits.to(tl.int32), (bits >> 32).to(tl.int32)
    end = tl.minimum(start + bit_length(bits), keys)
    cut = tl.minimum(cut, keys)
    most = tl.max(cut)
    # Where every row sees every key of a tile, there is nothing to mask.
    least = tl.min(tl.where(valid, cut, keys))
    if lows is not None:
        lowest = tl.min(tl.where(valid & (floor < cut), floor, keys))
        least = 0  # every tile of a window is masked

    d = tl.arange(0, WIDTH)
    inside = valid[:, None] & (d < HEAD_DIM)[None, :]
    x = tl.load(q + token[:, None] * q_token + member[:, None] * q_head + d, inside, other=0.0)
    k += head * KV_HEAD
    v += head * KV_HEAD
    place = (token.to(tl.int64) * (tl.num_programs(1) * GROUP) + member) * spans

    for span in range(part, spans, share):
        left = span * SPAN
        right = tl.minimum(left + SPAN, keys)
        # Rows of a slot may look at places far apart (padding): only tiles that are seen count,
        # and a tile begins at a multiple of KEYS whichever rows there are.
        near = (start < right) & (end > left) & (end > start)
        own_first = tl.min(tl.where(near, start, right))
        first = tl.maximum(own_first, left) // KEYS * KEYS
        if lows is None:
            first = tl.where(most > left, left, first)
        else:
            begin = tl.maximum(lowest, left)
            some = begin < tl.minimum(most, right)
            first = tl.where(some, tl.minimum(begin // KEYS * KEYS, first), first)
        last = tl.maximum(tl.minimum(most, right), tl.max(tl.where(near, end, left)))
        last = tl.minimum(last, right)
        if first < last:
            top = tl.full([QUERIES], float("-inf"), tl.float32)
            total = tl.zeros([QUERIES], tl.float32)
            acc = tl.zeros([QUERIES, WIDTH], tl.float32)
            # Read in the loop, keys would wait for the table, and fewer tiles be on their way.
            at = left // BLOCK + tl.arange(0, SPAN // BLOCK)
            held = tl.load(table + at, at * BLOCK < last, other=0)
            for tile in tl.range(first, last, KEYS):
                key = tile + tl.arange(0, KEYS)
                there = (key < last)[:, None] & (d < HEAD_DIM)[None, :]
                of_key = tl.gather(held, (key - left) // BLOCK, 0).to(tl.int64)
                places = (of_key * kv_block + key % BLOCK * KV_ROW)[:, None] + d[None, :]
                kt = tl.load(k + places, there, other=0.0)
                vt = tl.load(v + places, there, other=0.0)
                scores = capped(tl.dot(x, kt.T, input_precision="ieee"), scale, CAP)
                if tile + KEYS > least:
                    bit = key[None, :] - start[:, None]
                    word = tl.where(bit < 32, low[:, None], high[:, None])
                    own = ((word >> (bit & 31)) & 1) == 1
                    own = own & (bit >= 0) & (bit < 64) & (key < keys)[None, :]
                    below = key[None, :] < cut[:, None]
                    if lows is not None:
                        below = below & (key[None, :] >= floor[:, None])
                    seen = below | own
                    scores = tl.where(seen, scores, float("-inf"))
                new = tl.maximum(top, tl.max(scores, 1) * scale)
                # A row that has seen nothing so far must not meet inf - inf.
                level = tl.where(new == float("-inf"), 0.0, new)
                p = tl.exp2(scores * scale - level[:, None])
                fade = tl.exp2(top - level)
                total = total * fade + tl.sum(p, 1)
                acc = acc * fade[:, None]
                acc = tl.dot(p.to(vt.dtype), vt, acc, input_precision="ieee")
                top = new
            tl.store(tops + place + span, top, valid)
            tl.store(totals + place + span, total, valid)
            tl.store(sums + (place + span)[:, None] * HEAD_DIM + d, acc, inside)
