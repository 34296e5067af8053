"""Prints, as JSON, what kernels compute otherwise where a cache has more elements than int32.

With an argument on that device, else in Triton's interpreter (TRITON_INTERPRET=1).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from attention_cases import Case, far_apart, random_case

from parse_runtime.kernels.cuda import attend_rows, attend_step, rotate
from parse_runtime.kernels.rotate import Rotation

KEYS, LENGTH = 40, 3
CASE = {"length": LENGTH, "batch": 2, "slots": 2, "keys": KEYS, "dtype": torch.bfloat16}


def attended(case: Case) -> Tensor:
    return attend_rows.launch(
        case.q, case.cache, case.tables, case.slots, case.rows, case.cuts, case.starts, KEYS,
        attend_rows.Tiles(16, 16, 4, 2), case.lows, case.scale, case.cap,
    )  # fmt: skip


def stepped(case: Case) -> Tensor:
    return attend_step.launch(
        case.q, case.cache, case.tables, case.slots, case.cuts, case.starts, case.ancestors, KEYS,
        LENGTH, attend_step.Tiles(32, 16, 16, 4, 2, 7), case.lows, case.scale, case.cap,
    )  # fmt: skip


def rotation(case: Case, count: int) -> tuple[Tensor, Rotation]:
    """A product of `count` rows, and what is done to it."""
    generator = torch.Generator().manual_seed(4)
    _, heads, head_dim = case.q.shape
    qkv = torch.randn(2, count, (heads + 4) * head_dim, generator=generator).to(case.q.device)
    each = count // len(case.slots)
    rows = torch.arange(KEYS - each, KEYS).repeat(len(case.slots)).to(case.q.device)
    frequencies = torch.rand(head_dim // 2, generator=generator).to(case.q.device)
    return qkv, Rotation(rows + 32000, frequencies, rows, None, 0.0, 0.0)


def stored(case: Case, count: int) -> Tensor:
    qkv, how = rotation(case, count)
    q = rotate.rotate_store(
        qkv, how.positions, how.inverse_frequencies, case.cache, case.tables, case.slots, how.rows,
        None, 0.0,
    )  # fmt: skip
    return torch.cat((q.flatten(), case.cache.flatten()))


def rotated(case: Case) -> Tensor:
    """Decode steps, whose attention rotates."""
    numbers = [n[:: case.length].contiguous() for n in (case.cuts, case.starts, case.ancestors)]
    qkv, how = rotation(case, len(case.slots))
    partial = attend_step.rotated_partial(
        qkv, how, case.cache, case.tables, case.slots, *numbers, KEYS, 1,
        tiles=attend_step.Tiles(32, 16, 16, 4, 2, 7),
    )  # fmt: skip
    return torch.cat((attend_step.unite(partial).flatten(), case.cache.flatten()))


KERNELS: dict[str, Callable[[Case], Tensor]] = {
    "rows": attended, "step": stepped, "rotated step": rotated,
    "few rows stored": lambda case: stored(case, 2), "rows stored": lambda case: stored(case, 80),
}  # fmt: skip


def main(device: str) -> None:
    found = {}
    for name, kernel in KERNELS.items():
        case = random_case(1, **CASE).to(device)
        far = far_apart(case)
        found[name] = int((kernel(far) != kernel(case)).sum())
    print(json.dumps(found))


main(sys.argv[1] if len(sys.argv) > 1 else "cpu")
