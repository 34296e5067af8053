"""What a machine, or a container's limit, leaves to a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundryrt import free_memory


@pytest.mark.parametrize(
    ("limit", "free"), [("max", 8_192_000), ("3000000", 1_400_000), ("1000", 0)]
)
def test_a_container_has_what_its_limit_leaves(
    limit: str, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 16000 kB\nMemAvailable:    8000 kB\n")
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    stat = "file 700000\ninactive_file 300000\nactive_file 100000\nanon 1\n"
    (tmp_path / "memory.stat").write_text(stat)
    monkeypatch.setattr(free_memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(free_memory, "_CONTROL_GROUP", tmp_path)
    assert free_memory.free_memory() == free


def test_who_says_nothing_limits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(free_memory, "_CONTROL_GROUP", tmp_path)
    assert free_memory.free_memory() is None
