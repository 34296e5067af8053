"""Processes that run from the checkout, several at a time where a test wants that."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CAPTURE = "from foundryc.cli import main; main()"
RUN = """
import sys
from foundryrt.start import main
try:
    main()
finally:
    assert "torch" not in sys.modules and "foundryc" not in sys.modules
"""


def start(
    *arguments: object, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Python with these arguments."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], text=True, cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
        | dict(environment or {}),
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    """What it printed; AssertionError with what it said where it failed. What hangs is killed."""
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, f"exit status {process.returncode}\n{out[-2000:]}{err[-4000:]}"
    return out


def devices(world: int) -> str:
    """A GPU for each rank, or one for all."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if seen is None:
        seen = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True, text=True, check=True,
        ).stdout.replace("\n", ",").rstrip(",")  # fmt: skip
    there = len(seen.split(","))
    return ",".join(str(rank if there >= world else 0) for rank in range(world))
