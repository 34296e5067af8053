"""Prints, as JSON, values of a layer of a small model that depend on how many rows there are.

One row runs kernels that do the work of several, and that hold their weights. `alone` counts values
by which a row of a batch differs when it is alone, `chain` those by which a chain of drafts differs
from decoding it, `held` those of products by themselves.
"""

from __future__ import annotations

import json

import torch
from torch import Tensor

from parse_runtime.kernels.attend_step import attend_step_parts
from parse_runtime.kernels.cuda.tiles import holding
from parse_runtime.kernels.linear import linear_parts
from parse_runtime.kernels.norm import add_rms_norm
from parse_runtime.kernels.normed import normed_parts, normed_swiglu
from parse_runtime.kernels.rotate import Rotation, places
from parse_runtime.kernels.swiglu import linear_swiglu
from parse_runtime.signature.sizes import BLOCK

HIDDEN, HEADS, KV_HEADS, MLP, HEAD_DIM, ROWS = 1024, 16, 8, 3072, 128, 2048


def random(*shape: int, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, device="cuda") * scale).bfloat16()


def summed(parts: Tensor) -> Tensor:
    """Parts, of which held weights may give fewer, as the kernel adds them that reads them next."""
    return add_rms_norm(parts, None, torch.ones(parts.shape[2], device="cuda"), 1e-6)[1]


class Layer:
    def __init__(self, slots: int) -> None:
        shapes = (
            ((HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN), (HIDDEN, HEADS * HEAD_DIM),
            (2 * MLP, HIDDEN), (HIDDEN, MLP),
        )  # fmt: skip
        self.weights = [random(n, k, scale=k**-0.5) for n, k in shapes]
        self.norm, self.head_norms = random(HIDDEN), (random(HEAD_DIM), random(HEAD_DIM))
        blocks = slots * ROWS // BLOCK
        self.caches = random(blocks, 2, 2, BLOCK, KV_HEADS, HEAD_DIM).transpose(0, 1)
        self.tables = torch.randperm(blocks, device="cuda").int().view(slots, -1)
        self.frequencies = 1e6 ** -(torch.arange(64, device="cuda") / 64)
        # Kernels may read weights before those ahead of them have ended.
        torch.cuda.synchronize()

    def run(
        self, x: Tensor, slots: Tensor, rows: Tensor, starts: Tensor, ancestors: Tensor, keys: int
    ) -> list[Tensor]:
        """All that two layers give, of rows side by side in their slots, and what they store."""
        added, hidden, found = x, None, []
        length = rows.shape[0] // slots.shape[0]
        rotation = Rotation(rows, self.frequencies, rows, self.head_norms, 1e-6, 0.0)
        block, inside = places(self.tables, slots, rows, BLOCK)
        qkv_weight, o, gate_up, down = self.weights
        for cache in self.caches.transpose(1, 2):
            qkv, hidden = normed_parts(added, hidden, self.norm, 1e-6, 0.0, None, qkv_weight)
            added = attend_step_parts(
                qkv, rotation, cache, self.tables, slots, starts, starts, ancestors, keys, length,
                o,
            )  # fmt: skip
            found += [summed(qkv), hidden, summed(added)]
            y, hidden = normed_swiglu(added, hidden, self.norm, 1e-6, 0.0, None, gate_up)
            added = linear_parts(y, down)
            found += [y, hidden, summed(added)]
            found += list(cache[:, block, inside].transpose(1, 2).unbind(0))
        # The number of rows last but one, as parts have it.
        return [part.reshape(-1, part.shape[-2], part.shape[-1]) for part in found]


def differing(found: list[Tensor], expected: list[Tensor], rows: slice) -> int:
    return sum(
        int((a != b[:, rows]).sum()) for a, b in zip(found, expected, strict=True)
    )  # fmt: skip


def alone(keys: int) -> int:
    """Rows of a batch, one by one and few by few; number of values that differ."""
    layer, count, total = Layer(64), 64, 0
    x, slots = random(count, HIDDEN), torch.arange(count, device="cuda")
    rows = keys - 1 - torch.randint(0, keys - 1, (count,), device="cuda")
    ones = torch.ones_like(rows)
    whole = layer.run(x, slots, rows, rows, ones, keys)
    for part in (slice(0, 1), slice(63, 64), slice(7, 12), slice(3, 19), slice(20, 60)):
        found = layer.run(x[part], slots[part], rows[part], rows[part], ones[part], keys)
        total += differing(found, whole, part)
    return total


def chain(keys: int, length: int) -> int:
    """A chain of rows of one slot, in one pass and one by one; number of values that differ."""
    layer, total = Layer(1), 0
    x, slots = random(length, HIDDEN), torch.zeros(1, dtype=torch.int64, device="cuda")
    start = keys - length
    rows = start + torch.arange(length, device="cuda")
    bits = (2 << torch.arange(length, device="cuda")) - 1
    whole = layer.run(x, slots, rows, torch.full_like(rows, start), bits, keys)
    ones = torch.ones_like(rows)
    for i in range(length):
        row = slice(i, i + 1)
        found = layer.run(x[row], slots, rows[row], rows[row], ones[row], keys)
        total += differing(found, whole, row)
    return total


def held() -> dict[str, int]:
    """By matrix, values of single rows that differ from those of 2 to 64 rows, which are streamed.

    Magnitudes lie far apart, so that bits show any other order, or alignment, of sums.
    """

    def far(*shape: int) -> Tensor:
        return random(*shape) * torch.exp(2 * random(*shape))

    counts = {}
    for n, k, gated in (
        (4096, 1024, False), (1024, 2048, False), (1024, 3072, False), (6144, 1024, True),
        (2048, 2048, False), (1000, 768, False), (300, 2048, False), (320, 128, False),
        (600, 768, True),
    ):  # fmt: skip
        weight, bias, x = far(n, k), far(n), far(64, k)
        if gated:
            weight *= 0.01  # else gates are all shut, or wide open
        assert holding(weight, gated) is not None
        torch.cuda.synchronize()
        functions = (
            [lambda x, w=weight, g=gelu: linear_swiglu(x, w, g) for gelu in (False, True)]
            if gated
            else [lambda x, w=weight, b=b: summed(linear_parts(x, w, b)) for b in (None, bias)]
        )
        counts[f"{n}x{k} {gated}"] = 0
        for function in functions:
            rows = torch.cat([function(x[i : i + 1]) for i in range(64)])
            for count in (2, 16, 17, 32, 33, 64):
                found = int((function(x[:count]) != rows[:count]).sum())
                counts[f"{n}x{k} {gated}"] += found
    return counts


def main() -> None:
    torch.manual_seed(0)
    report = {
        "alone": {keys: alone(keys) for keys in (300, 512, 2048)},
        "chain": {length: chain(700, length) for length in (2, 12, 40)},
        "held": held(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
