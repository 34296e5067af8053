"""Runs what examples/ has, as its readers would; used by the tests on a CPU and on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SUM = "#186"
"""How the solution of the question in serving.py ends."""


def run(*command: object, path: Path | None = None) -> str:
    """What a command prints; `path` goes before PYTHONPATH. AssertionError where it fails."""
    folders = [path, EXAMPLES / "workload", ROOT, os.environ.get("PYTHONPATH")]
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(str(folder) for folder in folders if folder),
    }
    words = [*map(str, command)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done.stdout


def capture_and_run(script: str, folder: Path, target: str) -> str:
    """What an example with these two commands prints; the second is a process of its own."""
    bundle = folder / "bundle.fdy"
    run(sys.executable, EXAMPLES / script, "capture", bundle, "--target", target)
    return run(sys.executable, EXAMPLES / script, "run", bundle)


def nearest(folder: Path, target: str) -> dict[str, list[list[float]]]:
    """The workload's result; its entry points are made here, as installing it would."""
    project = tomllib.loads((EXAMPLES / "workload" / "pyproject.toml").read_text())["project"]
    information = folder / f"nearest-{project['version']}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: nearest\nVersion: 1\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {module}\n" for name, module in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (information / "entry_points.txt").write_text("\n".join(lines))
    bundle = folder / "nearest.fdy"
    name = ["--workload", "nearest", "--best", "5"]
    run("foundryc", "capture", *name, "--target", target, "-o", bundle, path=folder)
    assert len(run("foundryrt", "run", bundle, path=folder).splitlines()) == 8
    result = json.loads(run("foundryrt", "run", bundle, "--noise", "0", "--json", path=folder))
    assert isinstance(result, dict)
    return result


def check_nearest(result: dict[str, list[list[float]]]) -> None:
    """A stored vector is the nearest to itself."""
    assert [index[0] for index in result["index"]] == list(range(8))
    assert all(len(score) == 5 and abs(score[0] - 1) < 1e-5 for score in result["score"])


def streamed(target: str, frames: int) -> None:
    """All frames arrive and are demodulated."""
    command = [sys.executable, EXAMPLES / "streaming.py", "--frames", frames, "--target", target]
    out = run(*command)
    report = json.loads(out[out.index("{\n") :])
    assert report["frames"] == frames and report["lost"] == report["malformed"] == 0
    assert report["ber"] < 0.1
