"""The far end of a context of 32768 tokens, and of a cache with more elements than int32 counts."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from kernel_script import kernel_report
from long_context import errors


def test_logits_at_the_end_of_32768_tokens_are_those_of_transformers(tmp_path: Path) -> None:
    found = errors(tmp_path, "cpu")
    assert set(found) == {"prefill", "step 0", "step 1"}
    assert all(error < 2e-5 for error in found.values()), found


def test_kernels_find_blocks_that_an_int32_does_not_reach() -> None:
    found = kernel_report("far_blocks.py", interpreted=True)
    assert len(found) == 5 and not any(found.values()), found
