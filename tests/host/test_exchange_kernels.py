"""The kernels that add up shares of several ranks, in Triton's interpreter."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from kernel_script import kernel_report


def test_sums_over_ranks_and_what_they_leave() -> None:
    """The sums of what all send, in every slab what this rank sends, and no word that was read."""
    report = kernel_report("exchange_interpreted.py", interpreted=True)
    assert len(report) == 52
    assert [name for name, right in report.items() if not right] == []


def test_ranks_that_wait_for_each_other() -> None:
    """Sums, what is gathered, and rows of a norm, several exchanges one behind the other."""
    report = kernel_report("exchange_together.py", interpreted=True)
    assert len(report) == 1 + 3 * 17
    assert [name for name, right in report.items() if not right] == []
