"""Benchmarks of several GPUs waste no time of theirs: early refusals, partial results, limits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.device import check_gpus
from benchmarks.parallel import run as parallel
from benchmarks.start.cold import process

ROOT = Path(__file__).parents[2]
FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open(sys.argv[1], "w") as file:
    file.write(str(child.pid))
print("is waiting", file=sys.stderr, flush=True)
time.sleep(600)
"""


def ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_a_step_that_does_not_end_is_killed_with_all_that_it_has_started(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"did not end in 3 s\n.*is waiting"):
        process(sys.executable, "-c", FAMILY, tmp_path / "child", limit=3)
    while not ended(int((tmp_path / "child").read_text())):
        time.sleep(0.02)


FAILS = """
import functools, sys, time
from pathlib import Path
from benchmarks.parallel.run import side_by_side
from benchmarks.start.cold import process

def fail():
    while not Path(sys.argv[1]).exists():
        time.sleep(0.02)
    raise SystemExit("no memory")

side_by_side([functools.partial(process, sys.executable, "-c", sys.argv[2], sys.argv[1]), fail])
"""


def test_where_one_of_several_fails_those_that_wait_for_it_are_killed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAILS, str(tmp_path / "child"), FAMILY], cwd=ROOT, timeout=120,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.endswith("no memory\n")


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as nvidia-smi is asked."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    lines = "GPU 0: A (UUID: GPU-0)\nGPU 1: A (UUID: GPU-1)"
    tool.write_text(f'#!/bin/sh\n[ "$1" = -L ] && echo "{lines}" || echo A\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def benchmark(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *words], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"TERM": "dumb", "NO_COLOR": "1"},
    )  # fmt: skip


@pytest.mark.usefixtures("two_gpus")
def test_gpus_that_are_not_there_are_refused_at_once(tmp_path: Path) -> None:
    output = ("--output", str(tmp_path / "x.json"))
    for words in (
        ("tensor-parallel", "--ranks", "4"),
        ("serve-degree", "--from", "2", "--to", "4", "--folder", str(tmp_path / "models")),
        ("serve", "--tp", "4", "--folder", str(tmp_path / "models")),
    ):
        done = benchmark(*words, *output)
        assert done.returncode == 1
        assert done.stderr == "GPU 2, 3 is not here: 2 are visible; run fewer ranks\n"
    done = benchmark("eight-gpus", *output)
    assert done.returncode == 1
    assert done.stderr == "GPU 2, 3, 4, 5, 6, 7 is not here: 2 are visible; run fewer ranks\n"
    for words, message in (
        (("--ranks", "2", "--devices", "0"), "for 2 ranks name as many GPUs"),
        (("--ranks", "2", "--devices", "0,a"), "for 2 ranks name as many GPUs"),
        (("--ranks", "1"), "two at least"),
        (("--models", "qwen3-15b"), "no 'qwen3-15b'"),
    ):
        done = benchmark("tensor-parallel", *words, *output)
        assert done.returncode == 2 and message in " ".join(done.stderr.split()), done.stderr
    assert not (tmp_path / "models").exists() and not (tmp_path / "x.json").exists()


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(("visible", "there"), [("3", 1), ("1,0", 2), ("", 0)])
def test_a_process_has_the_gpus_that_it_sees(monkeypatch, visible: str, there: int) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    check_gpus(range(there))
    with pytest.raises(SystemExit, match=f"GPU {there} is not here: {there} are visible"):
        check_gpus(range(there + 1))


@pytest.mark.usefixtures("two_gpus")
def test_a_part_that_fails_costs_nothing_that_was_or_will_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(script: str, *_: object, **__: object) -> Any:
        if script == "exchange_nccl.py":
            raise SystemExit("no NCCL here")
        return {"us": {"norm 8192": 5.0}} if "ours" in script else {"kernels": 1}

    monkeypatch.setattr(parallel, "step", step)
    output = tmp_path / "tp.json"
    with pytest.raises(SystemExit) as failed:
        parallel.run(
            ranks=2, devices="", parts="allreduce,profile", models="tiny", largest=64, repeats=1,
            output=output,
        )  # fmt: skip
    assert failed.value.code == 1
    found = json.loads(output.read_text())
    assert found["allreduce_2"]["us"] == {"norm 8192": 5.0}
    assert found["profile_tiny_2"]["ranks_2"] == {"kernels": 1}
