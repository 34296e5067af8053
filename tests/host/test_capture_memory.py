"""A workload that asks for more memory than there is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from foundryc.cache.capture import _enough_memory
from foundryc.recorder import Recorder
from foundryrt import free_memory
from foundryrt.errors import FoundryError


def test_sizes_beyond_any_memory_are_one_line() -> None:
    wanted = r"needs more memory .*\(1125899906842624 bytes at once\)"
    with pytest.raises(FoundryError, match=wanted), _enough_memory():
        torch.zeros(1 << 50, dtype=torch.uint8)


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="size of tensor"), _enough_memory():
        torch.zeros(2) + torch.zeros(3)


def test_memory_that_others_have_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux would give it, and end the process, or another, once it is used."""
    (tmp_path / "meminfo").write_text("MemTotal: 900000 kB\nMemAvailable:  200000 kB\n")
    monkeypatch.setattr(free_memory, "_MEMINFO", tmp_path / "meminfo")
    wanted = r"needs more memory than is free here \(201.3 MB at once\)"
    with (
        pytest.raises(FoundryError, match=wanted),
        _enough_memory(),
        Recorder(target="host", workload="large", settings={}) as recorder,
    ):
        recorder.register("x", torch.zeros(192 << 20, dtype=torch.uint8), role="state")
