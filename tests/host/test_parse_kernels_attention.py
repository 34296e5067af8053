"""The attention functions: float64, separate prefills, chains, and the Triton code interpreted."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from attention_cases import exact, random_case, rows, rows_visible, step, step_visible
from kernel_script import kernel_report

from parse_runtime.kernels.attend_rows import attend_rows
from parse_runtime.kernels.attend_step import attend_step
from parse_runtime.signature.plan import causal, verification_plan
from parse_runtime.signature.sizes import BLOCK, blocks_of

layouts = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31),
        "length": st.integers(1, 20),
        "group": st.integers(1, 16),
        "kv_heads": st.integers(1, 3),
        "head_dim": st.sampled_from([1, 8, 20, 80]),
        "keys": st.integers(1, 90),
        "windowed": st.booleans(),
    }
)


@settings(max_examples=60)
@given(layout=layouts, batch=st.integers(1, 3))
def test_rows_against_float64(layout: dict[str, int], batch: int) -> None:
    case = random_case(**layout, batch=batch)
    found = rows(case)
    assert (found.double() - exact(case, rows_visible(case))).abs().max() < 1e-4


@settings(max_examples=60)
@given(layout=layouts, batch=st.integers(1, 3))
def test_step_against_float64(layout: dict[str, int], batch: int) -> None:
    case = random_case(**layout, batch=batch)
    found = step(case)
    assert (found.double() - exact(case, step_visible(case))).abs().max() < 1e-4


def test_bfloat16_is_rounded_once_a_product() -> None:
    case = random_case(0, length=20, group=5, head_dim=64, keys=90, dtype=torch.bfloat16)
    found = rows(case)
    expected = exact(case, rows_visible(case))
    assert (found.double() - expected).norm() < 1e-2 * expected.norm()


def test_what_a_row_does_not_see_is_not_read() -> None:
    case = random_case(4, length=3, keys=30)
    case.cuts.clamp_(max=5)
    before = rows(case)
    unseen = ~rows_visible(case).any(0)
    assert unseen.any()
    read = torch.zeros(case.cache.shape[1:3], dtype=torch.bool)
    seen = (~unseen).nonzero()[:, 0]
    read[case.tables[int(case.slots[0])][seen // BLOCK].long(), seen % BLOCK] = True
    case.cache[:, ~read] = 1e9
    after = rows(case)
    assert torch.equal(before, after)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    prefix=st.integers(0, 12),
    shared=st.integers(1, 20),
    suffix=st.integers(1, 6),
    padding=st.integers(0, 9),
    data=st.data(),
)
def test_one_verification_equals_separate_prefills(
    seed: int, prefix: int, shared: int, suffix: int, padding: int, data: st.DataObject
) -> None:
    lengths = st.integers(prefix + 1, prefix + shared)
    cuts = sorted(data.draw(st.sets(lengths, min_size=1, max_size=5)))
    max_len, heads, head_dim = 40, 4, 8
    count = shared + suffix * len(cuts) + padding
    plan, _ = verification_plan(
        [0] * shared, prefix, [0] * suffix, cuts, count, max_len, max_len + 1
    )
    _, _, own_rows, chosen, starts = torch.from_numpy(plan).unbind(0)
    g = torch.Generator().manual_seed(seed)
    keys = max_len + 1 + suffix * len(cuts)
    blocks = blocks_of(keys)
    cache = torch.randn(2, 2 * blocks, BLOCK, 2, head_dim, generator=g)
    table = torch.randperm(2 * blocks, generator=g, dtype=torch.int32)[:blocks]
    tables = torch.stack((table.flip(0), table))
    q = torch.randn(count, heads, head_dim, generator=g)
    slot = torch.ones(1, dtype=torch.int64)
    found = attend_rows(q, cache, tables, slot, own_rows, chosen, starts, keys)
    for i, cut in enumerate(cuts):
        index = torch.arange(shared + i * suffix, shared + (i + 1) * suffix)
        row = torch.cat((torch.arange(cut), own_rows[index]))
        held = cache[:, table[row // BLOCK].long(), row % BLOCK]
        alone = torch.zeros(2, blocks_of(len(row)), BLOCK, 2, head_dim)
        alone.flatten(1, 2)[:, : len(row)] = held
        order = torch.arange(alone.shape[1], dtype=torch.int32).expand(2, -1)
        plain = torch.from_numpy(causal([0] * suffix, cut, suffix, max_len))
        expected = attend_rows(
            q[index], alone, order, slot, plain[2], plain[3], plain[4], cut + suffix
        )
        assert (found[index] - expected).abs().max() < 1e-5


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), length=st.integers(1, 16), known=st.integers(0, 30))
def test_a_chain_equals_decoding_row_by_row(seed: int, length: int, known: int) -> None:
    case = random_case(seed, length=length, keys=known + length)
    index = torch.arange(length)
    cut = torch.full((length,), known)
    slots, row = case.slots, known + index
    cache = case.cache, case.tables
    at_once = attend_step(case.q, *cache, slots, cut, cut, (2 << index) - 1, case.keys, length)
    slots, one = slots.expand(length), torch.ones(length, dtype=torch.int64)
    alone = attend_step(case.q, *cache, slots, row, row, one, case.keys, 1)
    assert (at_once - alone).abs().max() < 1e-5


def test_triton_code_interpreted() -> None:
    """The kernels' own code, on a CPU: odd head widths, few keys, rows that see nothing."""
    report = kernel_report("interpreted_kernels.py", interpreted=True)
    assert set(report["errors"]) == {"rows", "step"}
    assert all(error < 1e-6 for error in report["errors"].values())
    assert report["variations"] == report["row_variations"] == report["misread"] == 0
    error, changed = report["judged"]
    assert error < 1e-6 and changed == 0
    assert report["likelihoods"] < 2e-5 and report["evidence_errors"] < 1e-5
    assert report["kept_likelihoods"] < 2e-5 and report["few_logits"] < 1e-5
    worst, differing = report["judge_errors"]
    assert worst < 1e-6 and differing == report["repeated"] == 0
    assert report["tokens"] == report["expected_tokens"]
    assert report["narrow_tokens"] == report["expected_narrow_tokens"]
    assert report["step_plan"] == report["expected_step_plan"]
