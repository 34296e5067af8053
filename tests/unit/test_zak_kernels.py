"""The native receiver's sources for a processor that is not this one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "foundryrt" / "native"
COMPILER = "aarch64-linux-gnu-g++"


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"needs {COMPILER}")
@pytest.mark.parametrize("source", ["kernels", "choose", "api", "front", "estimate", "pool"])
def test_they_compile_for_neon(source: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            COMPILER, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-DFOUNDRY_LANES=4",
            f"-I{NATIVE}", "-c", NATIVE / "zak" / f"{source}.cpp", "-o", tmp_path / "out.o",
        ],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
