"""Prints, as JSON, whether ranks that wait for each other sum and gather right.

Run with TRITON_INTERPRET=1: each rank is a process of its own, and their slabs are shared memory.
Numbers are small and whole, so that sums are exact.
"""

from __future__ import annotations

import importlib
import json
import tempfile
import time
from pathlib import Path

import torch
import torch.multiprocessing as mp
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import GridExecutor

from foundryc.cuda import exchange
from foundryc.ranks import Ranks
from parse_runtime.kernels.cuda import reduce, stream
from parse_runtime.kernels.cuda.shares import send_product

WORLD = 3
CAPACITY = 1 << 12
"""Bytes: less than a sum in float32 needs, which takes two exchanges."""
ROUNDS = 2
BOUND = 60_000
"""Milliseconds, of a wait."""


@triton.jit
def store(place, word, there):
    tl.store(place, word, there)


@triton.jit
def add_product(total, weight, a, scale, at, APART: tl.constexpr):
    return tl.dot(weight.to(tl.float32), a.to(tl.float32).T, total)


def clock() -> tl.tensor:
    """Nanoseconds; who looks again lets another rank have the processor."""
    time.sleep(0.0005)
    return tl.full((), time.monotonic_ns(), tl.int64)


def rank(number: int, shares: Tensor, slabs: Tensor, folder: str) -> None:
    importlib.import_module("interpreted")
    # Its copy of a kernel's arguments onto themselves would undo what others write meanwhile.
    GridExecutor._restore_args_dev = lambda *_: None
    exchange._store = exchange._store_quads = store  # both are machine code
    exchange.globaltimer = clock
    stream.add_product = add_product  # the interpreter's product of bfloat16 is not one
    torch.set_num_threads(1)
    words = torch.tensor([number, WORLD, 0, BOUND], dtype=torch.int32)
    ranks = Ranks(WORLD, words, slabs, CAPACITY)
    total, own, found = shares.float().sum(0), shares[number], {}
    for turn in range(ROUNDS):
        # Whole multiples of 16 words, others, and a last tile that not all ranks have a piece of.
        for count in (own.numel(), 774):
            x = own[:count].clone()
            sums = reduce.all_reduce(x, ranks).float()
            found[f"bfloat16 sum {turn} {count}"] = torch.equal(sums, total[:count])
            sums = reduce.all_reduce(x.float(), ranks)
            found[f"float32 sum {turn} {count}"] = torch.equal(sums, total[:count])
            gathered = exchange.all_gather(x, ranks)
            found[f"gathered {turn} {count}"] = torch.equal(gathered, shares[:, :count])
        rows = own[:512].view(4, 128)
        _, sums = reduce.reduce_add_rms_norm(rows, None, own[:128], 1e-6, 0.0, ranks)
        found[f"norm {turn}"] = torch.equal(sums.float(), total[:512].view(4, 128))
        # As in the last layer of a prefill: a sum of many rows, then a product of those wanted.
        reduce.all_reduce(own.clone(), ranks)
        x, w = (own[first : first + 192].sign().view(2, 96) for first in (0, 192))
        sent = send_product(x, w.repeat(35, 1), ranks, stream.Tiles(16, 32, 1, 2, 1))
        assert sent is not None
        _, sums = reduce.gather_add_rms_norm(sent, None, own[:70], 1e-6, 0.0)
        signs = shares[:, :384].sign().float().view(-1, 2, 2, 96)
        products = (signs[:, 0] @ signs[:, 1].mT).sum(0)
        found[f"product {turn}"] = torch.equal(sums.float(), products.repeat(1, 35))
    found["no error"] = not words[2]
    Path(folder, str(number)).write_text(json.dumps(found))


def main() -> None:
    torch.manual_seed(0)
    count = 2 * reduce._BLOCK * WORLD + 32
    shares = torch.randint(-8, 9, (WORLD, count)).bfloat16().share_memory_()
    slabs = torch.zeros(2 * WORLD * WORLD * CAPACITY, dtype=torch.uint8).share_memory_()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(rank, (shares, slabs, folder), nprocs=WORLD)
        found = {"slabs are empty": not slabs.any().item()}
        for number in range(WORLD):
            rows = json.loads(Path(folder, str(number)).read_text())
            found |= {f"{number} {name}": right for name, right in rows.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
