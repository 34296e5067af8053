"""What one process captures, another replays with no model code, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from foundryrt.bundle.reader import Bundle

HERE = Path(__file__).parent
PROGRAMS = (
    "attention", "sdpa", "convolution", "complex_numbers", "indexing", "selection", "dtypes",
    "in_place", "aliases", "layers", "inference_mode",
)  # fmt: skip


def run(script: str, *arguments: str, **variables: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    environment |= variables
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captured")
    run("host_programs.py", str(folder), *PROGRAMS, PYTHONHASHSEED="1")
    return folder


@pytest.fixture(scope="module")
def differing(captured: Path) -> list[str]:
    *lines, last = run("host_replay.py", str(captured), *PROGRAMS).splitlines()
    assert last == f"False {len(PROGRAMS)}"
    return lines


@pytest.mark.parametrize("program", PROGRAMS)
def test_replay_in_a_fresh_process_is_bit_identical(program: str, differing: list[str]) -> None:
    assert [line for line in differing if line.startswith(f"{program} ")] == []


def test_two_captures_are_the_same_file(captured: Path, tmp_path: Path) -> None:
    run("host_programs.py", str(tmp_path), *PROGRAMS, PYTHONHASHSEED="2", HOME=str(tmp_path))
    for program in PROGRAMS:
        first, second = (f / f"{program}.fdy" for f in (captured, tmp_path))
        assert first.read_bytes() == second.read_bytes(), program


def test_replay_writes_into_planned_memory(captured: Path) -> None:
    with Bundle.open(captured / "layers.fdy") as bundle:
        names = {function.name for function in bundle.manifest.functions}
    assert "aten::addmm.out" in names
    assert "aten::gelu.out" in names


def test_hostile_changes_of_recorded_calls_stay_in_the_arena(captured: Path) -> None:
    """A fixed few of those that fuzz_operators.py can make; it prints each that ends a process."""
    bundles = ",".join(str(captured / f"{program}.fdy") for program in PROGRAMS)
    assert run("fuzz_operators.py", bundles, "12") == ""


def test_views_are_no_nodes(captured: Path) -> None:
    with Bundle.open(captured / "aliases.fdy") as bundle:
        assert {function.name for function in bundle.manifest.functions} == {"aten::mul.out"}
