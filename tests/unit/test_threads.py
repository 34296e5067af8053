"""How many threads computations on the CPU get."""

from __future__ import annotations

import os

import pytest

from foundryrt.parallel import available_threads

HERE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("setting", "threads"),
    [
        (None, HERE),
        ("", HERE),
        ("1", 1),
        (" 1 ", 1),
        ("1,4", 1),
        ("99999999999999999999", HERE),
        ("0", HERE),
        ("-1", HERE),
        ("many", HERE),
        ("\u0661", HERE),
    ],
)
def test_the_environment_bounds_them_and_the_processors_do(
    monkeypatch: pytest.MonkeyPatch, setting: str | None, threads: int
) -> None:
    if setting is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert available_threads() == threads
