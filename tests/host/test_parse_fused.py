"""Products whose weights are held, and kernels fused at one row, in Triton's interpreter."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from kernel_script import kernel_report

from parse_runtime.kernels.attend_step import attend_step, attend_step_parts
from parse_runtime.kernels.linear import linear_parts
from parse_runtime.kernels.norm import add_rms_norm
from parse_runtime.kernels.normed import normed_parts, normed_swiglu
from parse_runtime.kernels.quantized import Quantized
from parse_runtime.kernels.rotate import Rotation, rotate_store
from parse_runtime.kernels.streamed import holds, of_steps, streams
from parse_runtime.kernels.swiglu import linear_swiglu
from parse_runtime.signature.sizes import PassSizes
from parse_runtime.signature.tree import DraftTree


def test_fused_kernels_near_the_references_and_equal_to_those_they_replace():
    report = kernel_report("parse_fused_interpreted.py", interpreted=True)
    for name, distance in report["near"].items():
        assert distance < 2e-6, name
    for name, differing in report["differing"].items():
        assert differing == 0, name


@pytest.mark.parametrize(
    ("shape", "gated", "expected"),
    [
        ((4096, 1024), False, (2, 4, 64)),  # Qwen3-0.6B: query, key and value,
        ((1024, 2048), False, (4, 4, 64)),  # output,
        ((6144, 1024), True, (1, 8, 32)),  # gates and values,
        ((1024, 3072), False, (6, 4, 64)),  # down
        ((64, 256), False, (2, 1, 64)),
        ((151936, 1024), False, None),  # more programs than a GPU holds
        ((7168, 5120), False, None),
        ((6144, 1152), True, None),  # more than registers hold
        ((1024, 1000), False, None),  # no whole tiles
    ],
)
def test_which_matrices_are_held(shape, gated, expected):
    held = pytest.importorskip("parse_runtime.kernels.cuda.held")
    weight = torch.empty(shape, dtype=torch.bfloat16, device="meta")
    assert held.holding(weight, gated) == (expected and held.Holding(*expected))
    assert held.holding(weight.float(), gated) is None
    assert held.holding(Quantized(weight, weight), gated) is None


@pytest.mark.parametrize(
    ("batches", "tree", "held"),
    [((1, 8), None, True), ((1, 4), DraftTree(1, 1), True), ((1, 4), DraftTree(2, 1), False),
     ((1, 16), None, False)],
)  # fmt: skip
def test_a_model_of_many_rows_a_step_holds_nothing(batches, tree, held):
    """Not even in its passes of one row: a row's bits are those that it has among others."""
    sizes = PassSizes(max_len=64, slots=batches[-1], decode=batches, tree=tree)
    row = SimpleNamespace(is_cuda=True, shape=(1, 1024))
    with of_steps(sizes.step_rows):
        assert holds(row) == held and streams(row)
    assert holds(row)


def test_fused_functions_are_those_they_name():
    x, residual, norm = torch.randn(1, 12), torch.randn(1, 12), torch.randn(12)
    qkv_weight, gate_up, o = torch.randn(24, 12), torch.randn(10, 12), torch.randn(12, 12)
    normed, total = add_rms_norm(x, residual, norm, 1e-6, 1.0)
    qkv, entered = normed_parts(x, residual, norm, 1e-6, 1.0, None, qkv_weight)
    assert torch.equal(entered, total)
    assert torch.equal(qkv, linear_parts(normed, qkv_weight))
    gated, entered = normed_swiglu(x, residual, norm, 1e-6, 1.0, None, gate_up, True)
    assert torch.equal(entered, total)
    assert torch.equal(gated, linear_swiglu(normed, gate_up, True))
    number, caches = torch.tensor([3]), torch.randn(2, 2, 3, 16, 1, 6)
    rotation = Rotation(number, torch.rand(3), number, None, 1e-6, 0.0)
    caches[1] = caches[0]
    where = torch.tensor([[2]], dtype=torch.int32), torch.tensor([0])
    numbers = *where, number, number, torch.ones_like(number), 5, 1
    found = attend_step_parts(qkv, rotation, caches[0], *numbers, o)
    q = rotate_store(
        qkv, number, rotation.inverse_frequencies, caches[1], *where, number, None, 1e-6
    )
    assert torch.equal(found, linear_parts(attend_step(q, caches[1], *numbers), o))
    assert torch.equal(caches[0], caches[1])
