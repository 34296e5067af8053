"""Triton kernels without a GPU, in a process of their own: interpreted, or compiled for Hopper."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def kernel_report(script: str, *, interpreted: bool) -> Any:
    """The JSON that a script of this folder prints; the test is skipped without Triton."""
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    path = f"{HERE.parent.parent}:{environment.get('PYTHONPATH', '')}"
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, str(HERE / script)]
    if interpreted:
        environment["TRITON_INTERPRET"] = "1"
        command.insert(1, str(HERE / "interpreted.py"))
    done = subprocess.run(
        command,
        capture_output=True, text=True, timeout=300, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)
