"""torch is imported without a look for garbage, which goes on behind it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import gc, json, sys
sys.path.insert(0, sys.argv[1])
from foundryrt.host.import_torch import import_torch
from foundryrt.process import begin_command
if "command" in sys.argv: begin_command()
if "off" in sys.argv: gc.disable()
try:
    module = import_torch()
    known = module is import_torch()
except ModuleNotFoundError as error:
    known = error.name
print(json.dumps([known, gc.isenabled(), gc.get_freeze_count() > 0]))
"""
TORCH = "import gc\nassert not gc.isenabled()\n"


def imported(torch: str, tmp_path: Path, *words: str) -> list[object]:
    """What is known, whether garbage is looked for afterwards, whether something is set aside."""
    (tmp_path / "torch.py").write_text(torch)
    command = [sys.executable, "-c", CODE, str(tmp_path), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("command", [False, True])
@pytest.mark.parametrize("off", [False, True])
def test_the_collector_is_as_it_was(command: bool, off: bool, tmp_path: Path) -> None:
    words = ["command"] * command + ["off"] * off
    assert imported(TORCH, tmp_path, *words) == [True, not off, command]


def test_what_torch_needs_may_be_missing(tmp_path: Path) -> None:
    assert imported("import needed_by_torch", tmp_path) == ["needed_by_torch", True, False]
