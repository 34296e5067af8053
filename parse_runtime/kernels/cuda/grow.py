"""A level of draft trees in two kernels: many programs scan a row's chunks, one a tree decides.

A tree's likeliest nodes are among the likeliest of each chunk. Nothing of the size of the logits is
written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from parse_runtime.kernels.cuda.chain import OPTIONS, opaque, release, side_by_side, wait
from parse_runtime.kernels.grow import Nodes

CHUNK = 4096
"""Logits that a program scans."""


@opaque
def launch(
    logits: Tensor, scores: Tensor | None, drafts: Tensor, level: int, width: int,
    offsets: Tensor | None, token: Tensor, position: Tensor, max_len: int,
) -> Nodes:  # fmt: skip
    """`parse_runtime.kernels.grow.grown`; of equal nodes the one of the earlier parent and id."""
    rows, vocabulary = logits.shape
    batch, device, number = position.shape[0], logits.device, 7
    chunks = triton.cdiv(vocabulary, CHUNK)
    sums = torch.empty(2, rows, chunks, dtype=torch.float32, device=device)
    best = torch.empty(rows, chunks, width, dtype=torch.float32, device=device)
    ids = torch.empty(rows, chunks, width, dtype=torch.int32, device=device)
    _likeliest[chunks, rows](
        logits.contiguous(), sums, best, ids, vocabulary, WIDTH=width, CHUNK=CHUNK, num_warps=8,
        **OPTIONS,
    )  # fmt: skip
    found = torch.empty(batch, width, dtype=torch.float32, device=device)
    numbers = torch.empty(number, batch * width, dtype=torch.int64, device=device)
    parents = rows // batch
    _grow[(batch,)](
        sums, best, ids, scores, drafts, offsets, *side_by_side(token, position), found, numbers,
        level, max_len, drafts.shape[2], chunks, PARENTS=parents, WIDTH=width,
        CHUNKS=triton.next_power_of_2(chunks), NODES=triton.next_power_of_2(width),
        FOUND=triton.next_power_of_2(parents * chunks * width), num_warps=4, **OPTIONS,
    )  # fmt: skip
    return Nodes(found, *numbers.unbind(0))


@triton.jit
def _likeliest(
    logits, sums, best, ids, vocabulary, WIDTH: tl.constexpr, CHUNK: tl.constexpr
):  # fmt: skip
    """A chunk's largest logit, its weight exp(logit - largest), and its WIDTH largest logits."""
    release()
    wait()
    chunk, row = tl.program_id(0), tl.program_id(1)
    token = chunk * CHUNK + tl.arange(0, CHUNK)
    there = token < vocabulary
    x = tl.load(logits + row.to(tl.int64) * vocabulary + token, there, other=float("-inf"))
    x = x.to(tl.float32)
    place = row * tl.num_programs(0) + chunk
    top = tl.max(x, 0)
    tl.store(sums + place, top)
    weight = tl.sum(tl.where(there, tl.exp(x - top), 0.0), 0)
    tl.store(sums + tl.num_programs(1) * tl.num_programs(0) + place, weight)
    for i in tl.static_range(WIDTH):
        value, index = tl.max(x, 0, return_indices=True)
        tl.store(best + place * WIDTH + i, value)
        tl.store(ids + place * WIDTH + i, tl.minimum(chunk * CHUNK + index, vocabulary - 1))
        x = tl.where(token == chunk * CHUNK + index, float("-inf"), x)


@triton.jit(do_not_specialize=["root_token", "position", "level", "max_len", "length"])
def _grow(
    sums, best, ids, scores, drafts, offsets, root_token, position, found, numbers,
    level, max_len, length, chunks,
    PARENTS: tl.constexpr, WIDTH: tl.constexpr, CHUNKS: tl.constexpr, NODES: tl.constexpr,
    FOUND: tl.constexpr,
):  # fmt: skip
    release()
    wait()
    tree, trees = tl.program_id(0), tl.num_programs(0)
    each, at = chunks * WIDTH, tl.arange(0, FOUND)
    first = tree * PARENTS * each
    left = tl.load(best + first + at, at < PARENTS * each, other=float("-inf"))
    chunk = tl.arange(0, CHUNKS)
    for parent in tl.static_range(PARENTS):
        place = sums + (tree * PARENTS + parent) * chunks + chunk
        top = tl.load(place, chunk < chunks, other=float("-inf"))
        weight = tl.load(place + trees * PARENTS * chunks, chunk < chunks, other=0.0)
        most = tl.max(top, 0)
        total = tl.sum(weight * tl.exp(top - most), 0)
        score = 0.0 if scores is None else tl.load(scores + tree * WIDTH + parent)
        left = tl.where(at // each == parent, score + (left - most - tl.log(total)), left)
    node = tl.arange(0, NODES)
    there = node < WIDTH
    value = tl.zeros((NODES,), tl.float32)
    where = tl.zeros((NODES,), tl.int32)
    for i in tl.static_range(WIDTH):
        highest, index = tl.max(left, 0, return_indices=True)
        value = tl.where(node == i, highest, value)
        where = tl.where(node == i, index, where)
        left = tl.where(at == index, float("-inf"), left)
    where = tl.minimum(where, PARENTS * each - 1)
    tl.store(found + tree * WIDTH + node, value, there)
    token = tl.load(ids + first + where, there, other=0).to(tl.int64)
    if offsets is not None:
        token += tl.load(offsets + token, there, other=0)
    begin = 1 + level * WIDTH
    row, parent = begin + node, where // each
    drafts += tree.to(tl.int64) * 3 * length
    own = tl.full((NODES,), 1, tl.int64) << row
    if scores is None:
        parents, ancestors = parent, own | 1
        tl.store(drafts, tl.load(root_token + tree))
        tl.store(drafts + length, 0)
        tl.store(drafts + 2 * length, 1)
    else:
        parents = begin - WIDTH + parent
        ancestors = tl.load(drafts + 2 * length + parents, there, other=0) | own
    tl.store(drafts + row, token, there)
    tl.store(drafts + length + row, parents, there)
    tl.store(drafts + 2 * length + row, ancestors, there)
    root = tl.load(position + tree)
    going = root < max_len
    numbers += tree * WIDTH + node
    stride = trees * WIDTH
    tl.store(numbers, tree * PARENTS + parent, there)
    tl.store(numbers + stride, token, there)
    tl.store(numbers + 2 * stride, root + level + 1 + node * 0, there)
    tl.store(numbers + 3 * stride, tl.minimum(root + row, max_len), there)
    tl.store(numbers + 4 * stride, tl.where(going, root + 1, 0) + node * 0, there)
    tl.store(numbers + 5 * stride, tl.minimum(root + 1, max_len) + node * 0, there)
    tl.store(numbers + 6 * stride, tl.where(going, ancestors >> 1, 1), there)
