"""What `import foundryrt` may cost: a replica starts with it."""

from __future__ import annotations

import subprocess
import sys

import pytest

FORBIDDEN = ("torch", "typer", "rich", "foundryc", "cuda", "cryptography", "fsspec", "numpy")


def imported(statement: str) -> tuple[set[str], float]:
    """Top-level modules that the statement imports, and the seconds it took by importtime."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", statement],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    modules, total = set(), 0
    for line in done.stderr.splitlines():
        own, _, name = line.removeprefix("import time:").split("|")
        if own.strip().isdigit():
            modules.add(name.strip().partition(".")[0])
            total += int(own)
    return modules, total / 1e6


@pytest.mark.parametrize(
    "module",
    ["foundryrt", "foundryrt.session", "foundryrt.cuda.backend", "foundryrt.weights"],
)
def test_no_heavy_imports(module: str) -> None:
    modules, _ = imported(f"import {module}")
    assert "foundryrt" in modules
    assert not modules & set(FORBIDDEN)


@pytest.mark.parametrize("module", ["parse_runtime.run", "otfs_pipeline.run"])
def test_drivers_import_no_torch(module: str) -> None:
    modules, _ = imported(f"import {module}")
    assert not modules & {"torch", "foundryc"}
