"""Draft trees: one program a tree; their accepted rows are moved by one a part of a row."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, side_by_side, wait
from parse_runtime.kernels.cuda.early import append
from parse_runtime.kernels.cuda.rotate_group import row_place
from parse_runtime.kernels.drafts import Path, Tree

COLUMNS = 256
"""Of keys or values of a layer, which a program moves."""


@opaque
def launch_rooted(
    drafts: Tensor, depths: Tensor, token: Tensor, position: Tensor, slots: Tensor, max_len: int
) -> Tree:
    """`parse_runtime.kernels.drafts.rooted`."""
    batch, rows = token.shape[0], drafts.shape[2]
    found, entries = drafts.new_empty(batch, 3, rows), drafts.new_empty(batch)
    numbers = drafts.new_empty(6, batch * rows)
    _rooted[(batch,)](
        *side_by_side(drafts, depths, token, position, slots), found, entries, numbers,
        max_len, drafts.shape[0] - 1, rows, ROWS=triton.next_power_of_2(rows), num_warps=1,
        **OPTIONS,
    )  # fmt: skip
    return Tree(found, entries, *numbers.unbind(0))


@opaque
def launch_accept(
    drafts: Tensor, depths: Tensor, choices: Tensor, position: Tensor, max_len: int, levels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`parse_runtime.kernels.drafts.accept`."""
    batch, _, rows = drafts.shape
    count, both = drafts.new_empty(batch), drafts.new_empty(2, batch, levels + 1)
    _accept[(batch,)](
        *side_by_side(drafts, depths, choices, position), count, both, max_len, rows, levels + 1,
        ROWS=triton.next_power_of_2(rows), WIDTH=triton.next_power_of_2(levels + 1), num_warps=1,
        **OPTIONS,
    )  # fmt: skip
    return count, both[0], both[1]


@opaque
def launch_followed(
    position: Tensor, count: Tensor, path: Tensor, after: Tensor, rows: int, max_len: int
) -> Path:
    """`parse_runtime.kernels.drafts.followed`."""
    batch, width = path.shape
    each, ends = path.new_empty(3, batch, width), path.new_empty(5, batch)
    _followed[(batch,)](
        *side_by_side(position, count, path, after), each, ends, max_len, rows, width,
        WIDTH=triton.next_power_of_2(width), num_warps=1, **OPTIONS,
    )  # fmt: skip
    return Path(each[0].flatten(), each[1], each[2], *ends.unbind(0))


@opaque
def launch_move(values: Tensor, tables: Tensor, slots: Tensor, come: Tensor, to: Tensor) -> None:
    """`parse_runtime.kernels.drafts.move`, of a cache that is contiguous."""
    _, layers, both, block, *row = values.shape
    width = row[0] * row[1]
    batch, rows = come.shape
    _move[batch, layers * both, triton.cdiv(width, COLUMNS)](
        values, *side_by_side(tables, slots, come, to), tables.shape[1], width,
        BLOCK=block, ROWS=rows, COLUMNS=COLUMNS, num_warps=1, **OPTIONS,
    )  # fmt: skip


@triton.jit(do_not_specialize=["position", "max_len", "last", "count"])
def _rooted(
    drafts, depths, token, position, slots, found, entries, numbers, max_len, last, count,
    ROWS: tl.constexpr,
):  # fmt: skip
    release()
    wait()
    tree, row = tl.program_id(0), tl.arange(0, ROWS)
    there = row < count
    root = tl.load(position + tree)
    padding = root >= max_len
    entry = tl.where(padding, last, tl.load(slots + tree))
    tl.store(entries + tree, entry)
    drafts += entry * 3 * count + row
    tokens = tl.where(row == 0, tl.load(token + tree), tl.load(drafts, there))
    ancestors = tl.load(drafts + 2 * count, there)
    found += tree * 3 * count + row
    tl.store(found, tokens, there)
    tl.store(found + count, tl.load(drafts + count, there), there)
    tl.store(found + 2 * count, ancestors, there)
    numbers += tree * count + row
    stride = tl.num_programs(0) * count
    tl.store(numbers, tokens, there)
    tl.store(numbers + stride, root + tl.load(depths + row, there), there)
    tl.store(numbers + 2 * stride, tl.minimum(root + row, max_len), there)
    tl.store(numbers + 3 * stride, tl.where(padding, 0, root), there)
    tl.store(numbers + 4 * stride, root, there)
    tl.store(numbers + 5 * stride, tl.where(padding, 1, ancestors), there)


@triton.jit(do_not_specialize=["position", "max_len", "rows", "width"])
def _accept(
    drafts, depths, choices, position, count, path, max_len, rows, width,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    release()
    wait()
    tree, row = tl.program_id(0), tl.arange(0, ROWS)
    there = row < rows
    drafts += tree * 3 * rows + row
    choices += tree * rows
    parents = tl.load(drafts + rows, there, other=0)
    agrees = tl.load(drafts, there) == tl.load(choices + parents, there)
    agrees = (agrees & (tl.load(position + tree) + row < max_len)) | (row == 0)
    bit = tl.full((ROWS,), 1, tl.int64) << row
    wrong = tl.sum(tl.where(agrees | ~there, 0, bit), 0)
    ancestors = tl.load(drafts + 2 * rows, there, other=0)
    depth = tl.load(depths + row, there, other=0)
    accepted = there & ((ancestors & wrong) == 0)
    length = tl.where(accepted, depth, -1)
    # Of paths of the same length the one whose end lies first.
    most = tl.max(length, 0)
    end = tl.min(tl.where(length == most, row, ROWS), 0)
    of_end = tl.sum(tl.where(row == end, ancestors, 0), 0)
    on_path = there & (((of_end >> row) & 1) == 1)
    level = tl.arange(0, WIDTH)
    mine = on_path[None, :] & (depth[None, :] == level[:, None])
    found = tl.sum(tl.where(mine, row[None, :], 0), 1)
    found = tl.where(level <= most, found, end)
    tl.store(count + tree, most)
    path += tree * width + level
    kept = level < width
    tl.store(path, found, kept)
    tl.store(path + tl.num_programs(0) * width, tl.load(choices + found, kept), kept)


@triton.jit(do_not_specialize=["position", "path", "after", "max_len", "rows", "width"])
def _followed(
    position, count, path, after, each, ends, max_len, rows, width, WIDTH: tl.constexpr
):  # fmt: skip
    release()
    wait()
    tree, level = tl.program_id(0), tl.arange(0, WIDTH)
    there = level < width
    root, accepted = tl.load(position + tree), tl.load(count + tree)
    row = tl.load(path + tree * width + level, there, other=0)
    inside = (level <= accepted) & (root + level < max_len)
    each += tree * width + level
    trees = tl.num_programs(0)
    tl.store(each, tree * rows + row, there)
    tl.store(each + trees * width, tl.where(inside, root + row, max_len), there)
    tl.store(each + 2 * trees * width, tl.where(inside, root + level, max_len), there)
    last = tree * width + accepted
    tl.store(ends + tree, last)
    tl.store(ends + trees + tree, tl.load(after + last))
    end = tl.minimum(root + accepted, max_len)
    tl.store(ends + 2 * trees + tree, end)
    tl.store(ends + 3 * trees + tree, tl.where(end < max_len, end + 1, 0))
    tl.store(ends + 4 * trees + tree, 1)


@triton.jit(do_not_specialize=["come", "to", "table_blocks"])
def _move(
    values, tables, slots, come, to, table_blocks, width,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Of a slot, a layer's keys or values and some columns: all rows are read, then written."""
    release()
    wait()
    tree, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    table = tables + tl.load(slots + tree) * table_blocks
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    there = column < width
    values += part.to(tl.int64) * BLOCK * width + column
    stride = parts.to(tl.int64) * BLOCK * width
    rows = ()
    for i in tl.static_range(ROWS):
        row = tl.load(come + tree * ROWS + i)
        rows = append(rows, tl.load(values + row_place(table, row, stride, width, BLOCK), there))
    for i in tl.static_range(ROWS):
        row = tl.load(to + tree * ROWS + i)
        tl.store(values + row_place(table, row, stride, width, BLOCK), rows[i], there)
