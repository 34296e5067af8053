"""Prints, as JSON, how far sums over ranks by the Triton kernels are from the references.

Run with TRITON_INTERPRET=1. One process is one of several ranks: what the others send lies in its
slab from the start, so that it waits for nobody. Numbers are small and whole, so that sums are
exact: the interpreter cuts numbers off to bfloat16.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from foundryc.cuda import exchange
from foundryc.ranks import Ranks
from parse_runtime.kernels.cuda import reduce, stream
from parse_runtime.kernels.cuda import shares as shares_kernels


@triton.jit
def store(place, word, there):
    tl.store(place, word, there)


@triton.jit
def add_product(total, weight, a, scale, at, APART: tl.constexpr):
    return tl.dot(weight.to(tl.float32), a.to(tl.float32).T, total)


class Clock:
    """Stands still; a program asks it when it begins to wait, and at every look."""

    def __init__(self) -> None:
        self.asked = 0
        self.then: Callable[[], None] = lambda: None
        """Called at the first look, behind it."""

    def __call__(self) -> tl.tensor:
        self.asked += 1
        if self.asked == 2:
            self.then()
        return tl.full((), 0, tl.int64)


# These are machine code.
exchange._store = exchange._store_quads = store
# The interpreter's product of bfloat16 is not one.
stream.add_product = add_product
CAPACITY = 8192


def whole(*shape: int) -> Tensor:
    return torch.randint(-8, 9, shape).float()


def ranks_of(rank: int, world: int) -> Ranks:
    words = torch.tensor([rank, world, 0, 1000], dtype=torch.int32)
    return Ranks(
        world, words, torch.zeros(2 * world * world * CAPACITY, dtype=torch.uint8), CAPACITY
    )


def place(ranks: Ranks, slab: int, source: int, buffer: int = 0) -> Tensor:
    """The words that `source` sends to rank `slab`."""
    at = slab * ranks.stride + buffer * ranks.stride // 2 + source * ranks.capacity
    return ranks.slabs[at : at + ranks.capacity].view(torch.int32)


def as_sent(x: Tensor) -> Tensor:
    words = x.contiguous().flatten().view(torch.int32).clone()
    words[words == 0] = -2147450880 if x.dtype == torch.bfloat16 else -2147483648
    return words


def fill(ranks: Ranks, rank: int, shares: list[Tensor]) -> None:
    """Have the others send their shares."""
    for source, share in enumerate(shares):
        if source != rank:
            words = as_sent(share)
            place(ranks, rank, source)[: words.numel()] = words


def normed(rank: int, world: int, dtype: torch.dtype, spans: int, row: bool) -> bool:
    """`reduce_add_rms_norm` of this rank, against the same sums in torch, and what it leaves."""
    torch.manual_seed(world)
    count, width = 3, 66
    shares = [whole(count, width).to(dtype) for _ in range(world)]
    ranks = ranks_of(rank, world)
    clock = exchange.globaltimer = Clock()
    if spans == 1:  # the last of them comes a look later
        fill(ranks, rank, shares[:-1])
        clock.then = lambda: fill(ranks, rank, shares)
    else:
        fill(ranks, rank, shares)
    parts = whole(spans, count, width)
    own = shares[rank] = parts.sum(0).to(dtype)
    residual = whole(count, width).to(dtype) if row else None
    weight = torch.randn(width).to(dtype)
    found, total = reduce.reduce_add_rms_norm(parts, residual, weight, 1e-6, 0.5, ranks)
    expected = torch.zeros(count, width)
    for share in shares:
        expected += share.float()
    expected = (expected + residual.float() if row else expected).to(dtype)
    wide = expected.float() * (expected.float().square().mean(1, keepdim=True) + 1e-6).rsqrt()
    wide *= weight.float() + 0.5
    near = torch.allclose(
        found.float(), wide, atol=1e-5, rtol=1e-2 if dtype.itemsize == 2 else 1e-5
    )
    sent = all(
        torch.equal(place(ranks, peer, rank)[: own.numel() * dtype.itemsize // 4], as_sent(own))
        for peer in range(world)
        if peer != rank
    )
    return torch.equal(total, expected) and near and sent and _left_empty(ranks, rank)


def sent(rank: int, world: int, dtype: torch.dtype, count: int, early: int) -> bool:
    """`send_product` and the norm that reads it, as `normed`; other rows leave a row's bits."""
    torch.manual_seed(world)
    n, k = 70, 96
    shares = [whole(count, n).to(dtype) for _ in range(world)]
    ranks = ranks_of(rank, world)
    exchange.globaltimer = Clock()
    fill(ranks, rank, shares)
    x, w = torch.randint(-1, 2, (count, k)).to(dtype), torch.randint(-1, 2, (n, k)).to(dtype)
    shares[rank] = (x.float() @ w.float().T).to(dtype)
    under_way = shares_kernels.send_product(x, w, ranks, stream.Tiles(16, 32, 1, 2, early))
    assert under_way is not None and ranks.turn() == 1
    arrived = all(
        torch.equal(
            place(ranks, peer, rank)[: shares[rank].numel() * dtype.itemsize // 4],
            as_sent(shares[rank]),
        )
        for peer in range(world)
    )
    residual, weight = whole(count, n).to(dtype), torch.randn(n).to(dtype)
    found, total = reduce.gather_add_rms_norm(under_way, residual, weight, 1e-6, 0.5)
    expected = sum((share.float() for share in shares), residual.float()).to(dtype)
    wide = expected.float() * (expected.float().square().mean(1, keepdim=True) + 1e-6).rsqrt()
    wide *= weight.float() + 0.5
    near = torch.allclose(
        found.float(), wide, atol=1e-5, rtol=1e-2 if dtype.itemsize == 2 else 1e-5
    )
    return arrived and torch.equal(total, expected) and near and _left_empty(ranks, rank)


def alone(dtype: torch.dtype) -> bool:
    """At capture a rank takes part with itself."""
    ranks = ranks_of(0, 4)
    ranks.words[1] = 1
    x, weight = whole(2, 8).to(dtype), torch.ones(8, dtype=dtype)
    _, total = reduce.reduce_add_rms_norm(x, None, weight, 1e-6, 0.0, ranks)
    return torch.equal(total, x) and _left_empty(ranks, 0)


def reduced(rank: int, world: int, dtype: torch.dtype) -> bool:
    """`all_reduce` of this rank: it adds up its piece of each tile, the others theirs."""
    torch.manual_seed(7)
    block = reduce._BLOCK
    words = 2 * world * block - 40
    count = words * (2 if dtype == torch.bfloat16 else 1)
    shares = [whole(count).to(dtype) for _ in range(world)]
    total = torch.zeros(count)
    for share in shares:
        total += share.float()
    total = total.to(dtype)
    ranks = ranks_of(rank, world)
    half = ranks.capacity // 8
    for source in range(world):
        if source == rank:
            continue
        # Tiles of its share that this rank adds up, and of the sum that the source adds up.
        for whose, what, first in ((rank, shares[source], 0), (source, total, half)):
            sent = as_sent(what)
            for tile in range(2):
                begin = (tile * world + whose) * block
                piece = sent[begin : begin + block]
                at = first + tile * block
                place(ranks, rank, source)[at : at + piece.numel()] = piece
    found = reduce.all_reduce(shares[rank], ranks)
    return torch.equal(found, total) and _left_empty(ranks, rank)


def gathered(rank: int, world: int, dtype: torch.dtype) -> bool:
    """`all_gather` of this rank, whose words the others have, too."""
    shares = [whole(2, 1008).to(dtype) for _ in range(world)]
    ranks = ranks_of(rank, world)
    fill(ranks, rank, shares)
    found = exchange.all_gather(shares[rank], ranks)
    sent = all(
        torch.equal(place(ranks, peer, rank)[: shares[rank].numel() * dtype.itemsize // 4],
                    as_sent(shares[rank]))
        for peer in range(world)
        if peer != rank
    )  # fmt: skip
    return torch.equal(found, torch.stack(shares)) and sent and _left_empty(ranks, rank)


def late(world: int) -> bool:
    """Where a rank has sent nothing, the wait ends, and the error says which."""
    ranks = ranks_of(0, world)
    ranks.words[3] = -1  # it is too late at once
    x = whole(1, 8)
    fill(ranks, 0, [x] * (world - 1))
    _, total = reduce.reduce_add_rms_norm(x, None, torch.ones(8), 1e-6, 0.0, ranks)
    return int(ranks.words[2]) == world and torch.allclose(total, (world - 1) * x)


def _left_empty(ranks: Ranks, rank: int) -> bool:
    """Words that were read are zeros again, and there was no error."""
    own = ranks.slabs[rank * ranks.stride : (rank + 1) * ranks.stride]
    return not bool(own.any()) and not int(ranks.words[2])


def main() -> None:
    found = {}
    exchange.globaltimer = Clock()
    for dtype in (torch.float32, torch.bfloat16):
        found[f"alone {dtype}"] = alone(dtype)
        for rank, world in ((0, 2), (1, 2), (2, 3)):
            found[f"reduced {rank} {world} {dtype}"] = reduced(rank, world, dtype)
            found[f"gathered {rank} {world} {dtype}"] = gathered(rank, world, dtype)
            for spans, row in ((1, True), (4, True), (2, False)):
                name = f"normed {rank} {world} {dtype} {spans} {row}"
                found[name] = normed(rank, world, dtype, spans, row)
            for count, early in ((1, 0), (5, 2), (17, 1)):
                name = f"sent {rank} {world} {dtype} {count} {early}"
                found[name] = sent(rank, world, dtype, count, early)
    found |= {f"late {world}": late(world) for world in (2, 3)}
    print(json.dumps(found))


main()
