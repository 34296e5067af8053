"""Programs with memory of their own: captured, and run elsewhere, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.gpu.foreign.programs import PROGRAMS

ROOT = Path(__file__).parents[2]
CANNOT = {
    "llama_eager": "unless the CPU tensor is pinned",  # torch itself cannot capture it
    "numba_kernel": "no attribute 'row_stack'",  # where numba is older than numpy
}
"""Programs that fail before anything of ours sees them, and how."""
NOISY = {"sparse_times_dense"}
"""Programs whose own replays differ from run to run."""


PROVED = {"fft_prime", "lstm", "training_step", "dropout", "qwen3_sdpa", "mixtral", "cupy_kernel",
          "several_streams"}  # fmt: skip
"""Programs that are captured three times, as `foundryc capture` does; FOUNDRY_PROVE=all for all."""


def run(step: str, name: str, folder: Path, *more: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", f"tests.gpu.foreign.{step}", name, str(folder), *more],
        capture_output=True, text=True, cwd=ROOT,
        env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")},
    )  # fmt: skip
    if done.returncode:
        return {"error": done.stderr[-1500:]}
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def both(name: str, folder: Path) -> dict[str, object]:
    prove = name in PROVED or os.environ.get("FOUNDRY_PROVE") == "all"
    captured = run("capture", name, folder, *["prove"] * prove)
    return captured if "error" in captured else captured | run("replay", name, folder)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign")
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(PROGRAMS, pool.map(lambda n: both(n, folder), PROGRAMS), strict=True))
    if out := os.environ.get("OUT"):
        Path(out, "foreign.json").write_text(json.dumps(found, indent=1))
    return found


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_runs_where_its_memory_never_was(results, name):
    result = results[name]
    if "error" in result and CANNOT.get(name, "never") in str(result["error"]):
        pytest.skip(f"{name}: {CANNOT[name]}")
    assert "error" not in result, result["error"]
    assert result["nonzero"]
    if name in NOISY and not result["repeats"]:
        pytest.skip(f"{name}: its own replays differ")
    assert result["repeats"]
    assert result["recorded"] == [True] * 3 and result["elsewhere"] == [True] * 3
    assert not result["torch"]
