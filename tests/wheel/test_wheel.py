"""The wheel in a bare virtual environment: no compiler, no checkout, only what it says it needs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from foundryrt import __version__

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
HOST = ROOT / "artifacts" / "v1-host-steps.fdy"
CUDA = ROOT / "artifacts" / "v1-cuda-sample.fdy"
GOLDEN = "[foundryrt.workloads]\ngolden = golden_workload\n"


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The wheel in dist/, built unless it is newer than everything it is made of."""
    if shutil.which("make") is None or shutil.which("c++") is None:
        pytest.skip("building the wheel needs make and a C++ compiler")
    done = subprocess.run(
        # -o: the environment that runs the tests is set up already.
        ["make", "-o", ".venv/.installed", f"BIN={Path(sys.executable).parent}", "wheel"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    (built,) = (ROOT / "dist").glob("*.whl")
    return built


class Bare:
    """A virtual environment without pip, whose commands find no compiler."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False)
        self.bin = folder / "bin"
        (self.site,) = folder.glob("lib/python3*/site-packages")

    def install(self, wheel: Path) -> None:
        """The wheel by pip, and what its metadata requires as links to this environment's."""
        command = [sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "-q"]
        done = subprocess.run([*command, "--no-index", "--no-deps", wheel], capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        (information,) = self.site.glob("foundry_graphs-*.dist-info")
        self._link(metadata.Distribution.at(information), set())

    def _link(self, distribution: metadata.Distribution, known: set[str]) -> None:
        for line in distribution.requires or ():
            requirement = Requirement(line)
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            if requirement.name in known:
                continue
            known.add(requirement.name)
            needed = metadata.distribution(requirement.name)
            assert needed.version in requirement.specifier
            for top in {file.parts[0] for file in needed.files or ()} - {"..", "__pycache__"}:
                if not (self.site / top).exists():
                    (self.site / top).symlink_to(needed.locate_file(top))
            self._link(needed, known)

    def run(self, *command: object) -> subprocess.CompletedProcess[str]:
        """One of its commands; it inherits nothing but a home folder."""
        words = [str(self.bin / str(command[0])), *map(str, command[1:])]
        env = {"PATH": str(self.bin), "HOME": str(self.site.parent), "OMP_NUM_THREADS": "2"}
        return subprocess.run(
            words, cwd=self.site.parent, env=env, capture_output=True, text=True, timeout=120
        )

    def out(self, *command: object) -> str:
        """What a command prints that must succeed."""
        done = self.run(*command)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bare]:
    folder = tmp_path_factory.mktemp("bare") / "venv"
    environment = Bare(folder)
    environment.install(wheel)
    yield environment
    shutil.rmtree(folder)


def test_it_is_one_manylinux_wheel_for_every_python(wheel: Path) -> None:
    python, abi, platform = wheel.stem.split("-")[-3:]
    assert (python, abi) == ("py3", "none")
    assert platform.startswith("manylinux_2_")


def test_what_it_requires_is_enough_to_look_at_bundles(bare: Bare) -> None:
    (version,) = {bare.out(command, "--version") for command in ("foundryc", "foundryrt")}
    assert version == f"foundry-graphs {__version__}\n"
    for bundle in (HOST, CUDA):
        assert json.loads(bare.out("foundryc", "verify", bundle, "--json"))["ok"]
        assert json.loads(bare.out("foundryc", "inspect", bundle, "--json"))
    refused = bare.run("foundryrt", "run", HOST)
    assert refused.returncode == 2 and "no workload 'golden'" in refused.stderr


def test_packages_are_typed_and_say_their_version(bare: Bare) -> None:
    packages = ("foundryc", "foundryrt", "parse_runtime", "otfs_pipeline", "hf_runtime")
    program = (
        f"import {', '.join(packages)}, sys\n"
        f"for package in ({', '.join(packages)}):\n"
        "    print(package.__version__, package.__file__)\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    lines = bare.out("python", "-c", program).splitlines()
    assert {line.split()[0] for line in lines} == {__version__}
    for line in lines:
        package = Path(line.split()[1]).parent
        assert package.parent == bare.site and (package / "py.typed").is_file()


@pytest.mark.parametrize("name", ["foundryc", "foundryrt", "foundryhost"])
def test_the_native_cores_load_and_link_no_cuda(bare: Bare, name: str) -> None:
    package = "foundryc" if name == "foundryc" else "foundryrt"
    core = bare.site / package / "native" / f"lib{name}.so"
    bare.out("python", "-c", f"import ctypes; ctypes.CDLL({str(core)!r})")
    needed = subprocess.run(["ldd", core], capture_output=True, text=True, check=True).stdout
    assert "not found" not in needed
    assert not any(library in needed for library in ("cuda", "cupti", "stdc++"))


def test_a_golden_bundle_runs(bare: Bare) -> None:
    """Torch, which the host target needs, is this environment's."""
    torch = pytest.importorskip("torch", reason="pip install 'foundry-graphs[host]'")
    (bare.site / "torch.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    shutil.copy(HERE / "golden_workload.py", bare.site)
    information = bare.site / "golden-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: golden\nVersion: 1\n")
    (information / "entry_points.txt").write_text(GOLDEN)
    found = json.loads(bare.out("foundryrt", "run", HOST, "--first", 3, "--json"))
    x = np.arange(3, 19).reshape(4, 4)
    np.testing.assert_array_equal(found["y"], x @ np.arange(16).reshape(4, 4) + x.sum(0))
