"""Ctrl-C at any moment of a session's life leaves nothing behind, and the bundle opens again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("way", ["signals", "places"])
def test_an_interrupt_leaves_nothing_behind(tmp_path, fake, way):
    done = subprocess.run(
        [sys.executable, "-m", "tests.fakecuda.interrupts", str(tmp_path), way],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
