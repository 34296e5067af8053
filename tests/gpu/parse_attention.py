"""Prints, as JSON, how far the attention and sampling kernels are from float64 and from torch."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent.parent / "host"))
from attention_cases import Case, exact, random_case, rows, rows_visible, step, step_visible

from parse_runtime.kernels.sample import sample

HEADS = [
    (5, 2, 128, torch.bfloat16), (16, 2, 96, torch.bfloat16), (1, 4, 64, torch.bfloat16),
    (3, 3, 80, torch.float32),
]  # fmt: skip
"""Heads of a group, groups, head_dim, type."""


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def against_float64() -> dict[str, float]:
    """The largest relative error over head layouts and sizes, by kernel and type."""
    worst: dict[str, float] = {}
    for i, (group, kv_heads, head_dim, dtype) in enumerate(HEADS):
        heads = {"group": group, "kv_heads": kv_heads, "head_dim": head_dim, "dtype": dtype}
        # Sizes that take tiles of their own, of which each costs a compilation, once.
        rare = [[(2000, 1, 200)], [(32, 20, 201)], [], []][i]
        for length, batch, keys in ((1, 1, 7), (37, 1, 300), (37, 1, 301), (32, 3, 301), *rare):
            # With a window, a scale and a cap where the number of keys is odd.
            windowed = {"windowed": keys % 2 == 1}
            case = random_case(
                i, length=length, batch=batch, slots=24, keys=keys, **heads, **windowed
            )
            case = case.to("cuda")
            error = distance(rows(case), exact(case, rows_visible(case)))
            worst[f"rows {dtype}"] = max(worst.get(f"rows {dtype}", 0.0), error)
        rare = [(1, 6, 1100), (1, 2, 7000), (1, 8, 32769)] if i == 0 else []
        for length, batch, keys in ((1, 1, 5), (7, 3, 300), (16, 2, 600), (16, 2, 601), *rare):
            windowed = {"windowed": keys % 2 == 1}
            case = random_case(
                i, length=length, batch=batch, slots=8, keys=keys, **heads, **windowed
            )
            case = case.to("cuda")
            error = distance(step(case), exact(case, step_visible(case)))
            worst[f"step {dtype}"] = max(worst.get(f"step {dtype}", 0.0), error)
    return worst


def against_dense_mask() -> float:
    """Of the error of torch's attention with a mask matrix, that of `attend_rows`."""
    case = random_case(
        7, length=300, keys=1000, group=5, kv_heads=8, head_dim=128, dtype=torch.bfloat16
    ).to("cuda")
    visible = rows_visible(case)
    visible[:, 0] = True
    case.cuts.clamp_(min=1)
    k, v = case.of_slot(int(case.slots[0]))[:, :, : case.keys]
    dense = F.scaled_dot_product_attention(
        case.q.transpose(0, 1)[None],
        k.repeat_interleave(5, 0)[None],
        v.repeat_interleave(5, 0)[None],
        visible[None, None],
    )
    expected = exact(case, visible)
    dense = dense[0].transpose(0, 1).reshape(expected.shape)
    return distance(rows(case), expected) / distance(dense, expected)


def part(case: Case, first: int, batch: int, length: int) -> Case:
    """The first `length` rows of `batch` slots from `first` on, as a case of its own."""
    index = torch.cat(
        [torch.arange(length) + (first + b) * case.length for b in range(batch)]
    ).to(case.q.device)  # fmt: skip
    fields: dict[str, Any] = {
        name: getattr(case, name)[index] for name in ("q", "rows", "cuts", "starts", "ancestors")
    }
    if case.lows is not None:
        fields["lows"] = case.lows[index]
    slots = case.slots[first : first + batch]
    return replace(case, slots=slots, **fields)


def row_variations() -> int:
    """Values of `attend_step` rows that depend on which other rows there are."""
    differing = 0
    for i, (group, kv_heads, head_dim, dtype) in enumerate([*HEADS, HEADS[0]]):
        whole = random_case(
            3, length=16, batch=32, slots=33, keys=900, group=group, kv_heads=kv_heads,
            head_dim=head_dim, dtype=dtype, windowed=i == len(HEADS),
        ).to("cuda")  # fmt: skip
        expected = step(whole).view(32, 16, -1)
        for first, batch, length in (
            (0, 1, 1), (3, 1, 16), (5, 2, 1), (9, 4, 3), (1, 31, 5), (0, 32, 8), (31, 1, 13),
        ):  # fmt: skip
            found = step(part(whole, first, batch, length)).view(batch, length, -1)
            differing += int((found != expected[first : first + batch, :length]).sum())
    return differing


def chain_variations() -> int:
    """Values by which a chain of 12 rows differs from the same rows decoded one at a time."""
    chain = random_case(
        5, length=12, group=5, kv_heads=2, head_dim=128, keys=700, dtype=torch.bfloat16
    ).to("cuda")
    index = torch.arange(12, device="cuda")
    chain.cuts.fill_(613), chain.starts.fill_(613)
    chain.ancestors.copy_((2 << index) - 1)
    at_once = step(chain)
    differing = 0
    for i in range(12):
        one = part(chain, 0, 1, 12)
        alone = Case(
            q=one.q[i : i + 1], cache=one.cache, tables=one.tables, slots=one.slots,
            rows=one.rows[:1],
            cuts=one.cuts[:1] + i + 1, starts=one.starts[:1] + i, ancestors=one.ancestors[:1],
            keys=one.keys,
        )  # fmt: skip
        differing += int((step(alone)[0] != at_once[i]).sum())
    return differing


def finite_padding() -> bool:
    """Padding rows, among real ones, give no NaN; a row that sees nothing is zero."""
    case = random_case(1, length=8, batch=2, group=5, head_dim=128, dtype=torch.bfloat16)
    case = case.to("cuda")
    case.cuts[4:] = 0
    case.rows[4:] = case.starts[4:] = case.keys - 1
    case.ancestors[4:] = 1
    case.ancestors[-1] = 0
    found = step(case)
    return bool(found.isfinite().all() and (found[-1] == 0).all())


def sampled() -> dict[str, Any]:
    """Tokens of the CUDA kernels against the torch reference, over kinds of rows."""
    generator = torch.Generator().manual_seed(0)
    agree, count = 0, 0
    for vocabulary in (3, 1000, 49152, 151936):
        logits = torch.randn(64, vocabulary, generator=generator) * 4
        heat = torch.tensor([0.0, 0.7, 1.0, 1.5]).repeat(16)
        mass = torch.tensor([1.0, 0.9, 0.5, 0.05, 0.999, 0.0]).repeat(11)[:64]
        seeds = torch.randint(-(2**62), 2**62, (64,), generator=generator)
        positions = torch.randint(0, 40000, (64,), generator=generator)
        for x in (logits, logits.bfloat16()):
            rows_ = (x, heat, mass, seeds, positions)
            agree += int((sample(*(r.cuda() for r in rows_)).cpu() == sample(*rows_)).sum())
            count += 64
    ties = torch.zeros(2, 20000).cuda()
    ties[:, [77, 9000, 15000]] = 5.0
    zero = torch.zeros(2).cuda()
    greedy = sample(ties, zero, zero + 1, zero.long(), zero.long()).tolist()
    return {"agree": agree, "of": count, "ties": greedy}


def captured() -> bool:
    """A CUDA graph of the three gives what the calls give."""
    case = random_case(
        2, length=16, batch=2, group=5, kv_heads=8, head_dim=128, keys=700, dtype=torch.bfloat16
    ).to("cuda")
    one = part(case, 0, 1, 16)
    heat = torch.full((32,), 0.8, device="cuda")

    def both() -> tuple[torch.Tensor, ...]:
        x = step(case)
        return x, rows(one), sample(x, heat, heat, case.rows, case.cuts)

    expected = both()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = both()
    graph.replay()
    return all(bool((a == b).all()) for a, b in zip(found, expected, strict=True))


checks = (against_float64, against_dense_mask, row_variations, chain_variations, finite_padding,
          sampled, captured)  # fmt: skip
report = {}
for check in checks:
    begin = time.monotonic()
    report[check.__name__] = check()
    print(f"{check.__name__}: {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)
print(json.dumps(report))
