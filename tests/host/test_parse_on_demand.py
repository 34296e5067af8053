"""`foundryrt serve --model` and `run --model`: two starts at once, one capture."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from parse_command import COMMAND
from parse_models import save


def test_two_starts_capture_once(tmp_path: Path) -> None:
    save(tmp_path / "tiny", "mistral", sliding_window=24, num_hidden_layers=1)
    shapes = [
        "--model", str(tmp_path / "tiny"), "--target", "host", "--max-len", "128",
        "--slots", "1", "--prefill", "16", "--verify", "128x1", "--yes", "y", "--no", "n",
    ]  # fmt: skip
    ways = {
        "run": ["--prompt", "Why?", "--max-new-tokens", "8", "--json"],
        "serve": ["--port", "0", "--grace", "0"],
    }
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("FOUNDRY_CACHE", None)
    started = {
        way: subprocess.Popen(
            [*COMMAND, way, *shapes, *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for way, options in ways.items()
    }  # fmt: skip
    lines = []
    served = started["serve"].stderr
    assert served is not None
    for line in served:
        lines.append(line)
        if "listening on" in line:
            break
    told, said = started["run"].communicate(timeout=120)
    started["serve"].send_signal(signal.SIGTERM)
    _, rest = started["serve"].communicate(timeout=60)
    assert started["run"].returncode == started["serve"].returncode == 0, (said, lines, rest)
    assert json.loads(told)["tokens"] == 8
    notes = [line for line in [*said.splitlines(), *lines] if line.startswith("bundle of")]
    assert sorted(note.split()[-1] for note in notes) == ["captured", "hit"]
    assert len(list((tmp_path / "cache" / "foundry" / "captures").glob("*.fdy"))) == 1
    assert "tiny: listening on" in lines[-1]
