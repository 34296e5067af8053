"""What `import foundryrt` may cost: a replica starts with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import foundryc
import foundryrt

ROOT = Path(__file__).parents[2]
FORBIDDEN = ("torch", "typer", "rich", "foundryc", "cuda", "cryptography", "fsspec", "numpy")


def imported(statement: str, *options: str) -> tuple[set[str], float]:
    """Top-level modules that the statement imports, and the seconds it took by importtime."""
    done = subprocess.run(
        [sys.executable, *options, "-X", "importtime", "-c", statement],
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


def test_packages_alone_import_nothing() -> None:
    """`foundryrt.start` begins the driver's start after `import foundryrt`."""
    # Without site: an editable installation finds packages by modules of its own.
    begin = f"import sys; sys.path.insert(0, {str(ROOT)!r})"
    nothing, _ = imported(begin, "-S")
    packages = {"foundryrt", "foundryc", "parse_runtime", "otfs_pipeline", "hf_runtime"}
    modules, _ = imported(f"{begin}; import {', '.join(sorted(packages))}", "-S")
    assert modules - nothing <= packages | {"__future__"}


def test_marks_of_a_script_import_nothing() -> None:
    body = "with foundryc.record('g', batch=8) as graph: graph.input('x', None)"
    modules, _ = imported(f"import foundryc; foundryc.keep('x', None)\n{body}")
    assert not modules & {"torch", "numpy", "typing_extensions"}


def test_names_that_the_packages_offer() -> None:
    """Each is the one of its module, imported when it is used."""
    modules, _ = imported("from foundryrt import FoundryError, Graph, Session, UsageError")
    assert not modules & set(FORBIDDEN)
    assert foundryrt.Session is foundryrt.session.Session
    assert foundryrt.UsageError is foundryrt.errors.UsageError
    assert {"Session", "Graph"} < set(dir(foundryrt)) and "Recorder" in dir(foundryc)
    for package in (foundryrt, foundryc):
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = package.nothing


@pytest.mark.parametrize(
    "module",
    ["parse_runtime.commands.run", "otfs_pipeline.run", "hf_runtime.run", "foundryrt.script"],
)
def test_drivers_import_no_torch(module: str) -> None:
    modules, _ = imported(f"import {module}")
    assert not modules & {"torch", "foundryc"}


@pytest.mark.parametrize("module", ["parse_runtime.capture.record", "hf_runtime.capture"])
def test_options_of_a_capture_need_no_torch(module: str) -> None:
    modules, _ = imported(f"import {module}")
    assert module.partition(".")[0] in modules and not modules & {"torch", "transformers"}


@pytest.mark.parametrize(
    ("missing", "command", "message"),
    [
        ("botocore", "cache ls s3://bucket", "pip install 'foundry-graphs[cache]'"),
        (
            "torch",
            "capture --workload otfs --grid 64x32 -o FOLDER/x.fdy",
            "'foundry-graphs[capture]'",
        ),
        (
            "tokenizers",
            "capture --workload parse --model m -o FOLDER/x.fdy",
            "'foundry-graphs[parse]'",
        ),
        ("cryptography", "keygen FOLDER/x.key", "'foundry-graphs[sign]'"),
    ],
)
def test_an_extra_that_is_not_installed(
    missing: str, command: str, message: str, tmp_path: Path
) -> None:
    """Commands that do without it work; the others name it in a line."""
    sample = str(Path(__file__).parents[2] / "artifacts" / "v1-host-steps.fdy")
    words = command.replace("BUNDLE", sample).replace("FOLDER", str(tmp_path)).split()
    program = f"import sys; sys.modules[{missing!r}] = None; from foundryc.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert message in done.stderr and done.stderr.count("\n") == bool(message)
    assert (done.returncode == 0) == (not message)
