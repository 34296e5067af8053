"""Programs with memory of their own: captured, and run elsewhere, bit for bit."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.gpu.foreign.programs import PROGRAMS
from tests.gpu.foreign.run import CANNOT, cannot, identical, run_all

PROVED = (
    "fft_prime", "training_step", "dropout", "qwen3_sdpa", "mixtral", "cupy_kernel",
)  # fmt: skip
"""Captured three times, as `foundryc capture` does; `python -m benchmarks foreign` does so to all.

The others' captures take for granted what a comparison proves.
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    found = run_all(tmp_path_factory.mktemp("foreign"), PROVED)
    if out := os.environ.get("OUT"):
        Path(out, "foreign.json").write_text(json.dumps(found, indent=1))
    return found


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_runs_where_its_memory_never_was(results, name):
    result = results[name]
    if cannot(name, result):
        pytest.skip(f"{name}: {CANNOT[name]}")
    assert "error" not in result, result["error"]
    assert result["nonzero"] and not result["torch"]
    if not result["repeats"]:
        pytest.skip(f"{name}: its own replays differ from run to run")
    assert identical(result)
