"""What the packages of a serving process take: the wheel with its extras in a bare environment.

Counted as a container has them, with the bytecode that pip writes: without it a process would
compile its modules at every start. Python itself and the system below it are not counted.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
import venv
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.device import cpu
from benchmarks.report import RESULTS, Output, say, today, write_results

ROOT = Path(__file__).parents[2]
EXTRAS = "serve,parse"
"""As examples/deploy/Dockerfile installs them."""


def build() -> Path:
    """The wheel of this tree, built unless it is newer than what it is made of."""
    command = ["make", "-o", ".venv/.installed", f"BIN={Path(sys.executable).parent}", "wheel"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    (wheel,) = (ROOT / "dist").glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """A virtual environment without pip that holds the wheel and what it needs; its packages."""
    venv.create(folder, with_pip=False)
    command = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "-q"]
    subprocess.run([*command, f"{wheel}[{EXTRAS}]"], check=True, stdout=sys.stderr)
    (site,) = folder.glob("lib/python3*/site-packages")
    return site


def sizes(site: Path) -> dict[str, dict[str, int]]:
    """Bytes of each distribution, and those of its bytecode; the largest first."""
    found = {}
    for distribution in metadata.distributions(path=[str(site)]):
        counted = {"bytes": 0, "bytecode": 0}
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file)))
            if path.is_file():
                counted["bytes"] += path.stat().st_size
                counted["bytecode"] += path.stat().st_size if path.suffix == ".pyc" else 0
        found[distribution.name] = counted
    return dict(sorted(found.items(), key=lambda item: -item[1]["bytes"]))


def run(
    wheel: Annotated[Path | None, typer.Option(help="In place of one built of this tree.")] = None,
    output: Output = RESULTS / "serve_size.json",
) -> None:
    """Measure the installed size of the serving process's packages."""
    with tempfile.TemporaryDirectory() as folder:
        built = wheel or build()
        say(f"installing {built.name}[{EXTRAS}]")
        found = sizes(install(built, Path(folder) / "bare"))
    total, bytecode = (sum(one[name] for one in found.values()) for name in ("bytes", "bytecode"))
    result = {
        "device": cpu(), "date": today(), "python": platform.python_version(),
        "extras": EXTRAS, "wheel": built.name,
        "installed_mb": round(total / 1e6, 1),
        "without_bytecode_mb": round((total - bytecode) / 1e6, 1),
        "distributions_mb": {
            name: round(one["bytes"] / 1e6, 2) for name, one in found.items()
        },
    }  # fmt: skip
    write_results(output, result)
    say(f"{result['installed_mb']} MB in {len(found)} distributions")
