"""A workload that asks for more memory than there is."""

from __future__ import annotations

import pytest
import torch

from foundryc.cache.capture import _enough_memory
from foundryrt.errors import FoundryError


def test_sizes_beyond_any_memory_are_one_line() -> None:
    wanted = r"needs more memory .*\(1125899906842624 bytes at once\)"
    with pytest.raises(FoundryError, match=wanted), _enough_memory():
        torch.zeros(1 << 50, dtype=torch.uint8)


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="size of tensor"), _enough_memory():
        torch.zeros(2) + torch.zeros(3)
