"""The examples of docs/ci.md, step by step as plain shell: the second finds the first's bundle."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def steps(title: str) -> list[str]:
    """The example's commands; installing and what only the CI service has are left out."""
    text = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    example = text.partition(f"## {title}\n```yaml\n")[2].partition("```")[0]
    lines = re.findall(r"^ +- (?:run: )?(foundry(?:c|rt) .+)$", example, re.MULTILINE)
    assert len(lines) == 3
    return lines


def test_examples_find_one_anothers_bundle(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "FOUNDRY_CACHE": "bundles", "OMP_NUM_THREADS": "2"}
    said = []
    for step in [*steps("GitHub Actions"), *steps("GitLab")]:
        done = subprocess.run(
            step, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, (step, done.stderr)
        if "capture" in step:
            said.append(done.stdout)
    captured, found = said
    assert "captured here" in captured and "taken from the cache" in found
    assert len(list((tmp_path / "bundles").glob("*.fdy"))) == 1
