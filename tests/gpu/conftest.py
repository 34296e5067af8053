"""GPU tests run their captures and replays in processes of their own, as users would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from processes import finish, start

HERE = Path(__file__).parent


_COUNT = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
count = ctypes.c_int()
assert cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value
"""


def _has_gpu() -> bool:
    # In a process of its own: this one may have loaded the stand-in driver under the same name.
    return subprocess.run([sys.executable, "-c", _COUNT], capture_output=True).returncode == 0


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "alone: depends on the clock; runs when nothing else does")


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    """Without a GPU every test here is skipped."""
    if not _has_gpu():
        pytest.skip("no GPU on this machine")


Run = Callable[..., Any]


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs a script of this folder and returns the JSON it printed on its last line."""

    def call(script: str, *arguments: object) -> Any:
        report = json.loads(finish(start(HERE / script, *arguments)).strip().splitlines()[-1])
        if folder := os.environ.get("OUT"):
            Path(folder, script.replace(".py", ".json")).write_text(json.dumps(report, indent=1))
        return report

    return call
