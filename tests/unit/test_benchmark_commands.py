"""The benchmarks' command line: one name each, one spelling of the output, clear refusals."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.catalogue import BENCHMARKS

ROOT = Path(__file__).parents[2]


def run(*arguments: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PATH": path, "TERM": "dumb"},
    )  # fmt: skip


def test_every_benchmark_is_listed() -> None:
    done = run("list")
    assert done.returncode == 0
    assert set(BENCHMARKS) <= {line.split(" ")[0] for line in done.stdout.splitlines()}


def test_an_unknown_name_is_refused() -> None:
    done = run("cold")
    assert done.returncode == 2
    assert "No such command 'cold'" in done.stderr


def test_without_a_gpu_one_line_says_so(tmp_path: Path) -> None:
    done = run("cold-start", path=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == "cold-start: needs an NVIDIA GPU; there is no nvidia-smi here\n"


def test_unknown_parts_are_refused(tmp_path: Path) -> None:
    done = run("otfs-precondition", "--grids", "7x7", "--output", str(tmp_path / "x.json"))
    assert done.returncode == 2
    assert "no '7x7'" in done.stderr


def test_the_gpu_script_names_benchmarks_that_exist() -> None:
    text = (ROOT / "benchmarks" / "gpu.sh").read_text()
    parts = dict(re.findall(r"^ {8}(\w+)\) limit=\d+ options=\(([\w-]+)", text, re.MULTILINE))
    assert set(parts.values()) <= set(BENCHMARKS)
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    assert all(f"| `{part}`" in readme for part in parts)
    done = subprocess.run(
        ["bash", "benchmarks/gpu.sh", "nonesuch"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no part nonesuch" in done.stderr
