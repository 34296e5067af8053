"""All programs, several at a time: each captured by one process, replayed by another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.gpu.foreign.programs import PROGRAMS

ROOT = Path(__file__).parents[3]
WORKERS = 8
CANNOT = {
    "llama_eager": "unless the CPU tensor is pinned",  # torch itself cannot capture it
    "numba_kernel": "no attribute 'row_stack'",  # where numba is older than numpy
}
"""Programs that fail before anything of ours sees them, and how."""

Found = dict[str, dict[str, Any]]
"""What each program's capture and replay reported; `error` where one failed."""


def run_all(folder: Path, proved: Collection[str]) -> Found:
    """Capture every program, those of `proved` as `foundryc capture` does, and replay it."""
    with ThreadPoolExecutor(WORKERS) as pool:
        results = pool.map(lambda name: _both(name, folder, name in proved), PROGRAMS)
        return dict(zip(PROGRAMS, results, strict=True))


def cannot(name: str, result: dict[str, Any]) -> bool:
    """Whether the program failed as it does without us."""
    return CANNOT.get(name, "\0") in result.get("error", "")


def identical(result: dict[str, Any]) -> bool:
    """Whether every run gave torch's bits, where it was captured and elsewhere."""
    return "error" not in result and all(result["recorded"]) and all(result["elsewhere"])


def summary(found: Found) -> dict[str, Any]:
    """How many were tried, can be captured by torch and repeat themselves, and are identical."""
    able = {name: result for name, result in found.items() if not cannot(name, result)}
    repeat = {name: result for name, result in able.items() if result.get("repeats", True)}
    same = [name for name, result in repeat.items() if identical(result)]
    return {
        "programs": len(found),
        "not_captured_by_torch": sorted(set(found) - set(able)),
        "do_not_repeat_themselves": sorted(set(able) - set(repeat)),
        "identical": len(same),
        "different": sorted(set(repeat) - set(same)),
        "share_identical": len(same) / len(repeat),
        "proved": sorted(name for name in same if repeat[name]["proved"]),
    }


def _both(name: str, folder: Path, prove: bool) -> dict[str, Any]:
    captured = _step("capture", name, folder, *["prove"] * prove)
    return captured if "error" in captured else captured | _step("replay", name, folder)


def _step(step: str, name: str, folder: Path, *more: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", f"tests.gpu.foreign.{step}", name, str(folder), *more],
        capture_output=True, text=True, cwd=ROOT,
        env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")},
    )  # fmt: skip
    if done.returncode:
        return {"error": done.stderr[-1500:]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
