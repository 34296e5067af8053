"""`foundryc capture --target cuda` where there is no GPU, and --compile where it cannot work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

CAPTURE = "from foundryc.cli import main; main()"


def capture(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CAPTURE, "capture", "--workload", "otfs", "--grid", "64x32"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_machine_without_a_gpu_is_one_line(tmp_path: Path) -> None:
    done = capture("--target", "cuda", "-o", str(tmp_path / "x.fdy"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: no GPU ") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_compiled_host_code_is_refused(tmp_path: Path) -> None:
    done = capture("--compile", "--target", "host", "-o", str(tmp_path / "x.fdy"))
    assert done.returncode == 2 and "--compile needs --target cuda" in done.stderr
