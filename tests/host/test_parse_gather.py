"""Kernels that move rows and grow trees, without a GPU; and what is left for torch to compute."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from kernel_script import kernel_report

PLAIN = {"mm", "ones_like", "mul", "full"}
"""Of contiguous tensors of one shape, and numbers: structs of these have no unused words."""


def test_interpreted_kernels_give_what_torch_gives() -> None:
    report = kernel_report("gather_interpreted.py", interpreted=True)
    assert len(report) > 300
    assert {name: count for name, count in report.items() if count} == {}


def test_passes_leave_torch_no_kernel_that_takes_unused_words() -> None:
    """Else captures differ, and a bundle's caches may not grow."""
    for case, passes in kernel_report("torch_in_passes.py", interpreted=False).items():
        kinds = {name.split()[0].split(".")[1] for name in passes}
        assert {"prefill", "decode", "verify"} <= kinds
        for name, operators in passes.items():
            assert set(operators) <= PLAIN, f"{case}: {name}"
