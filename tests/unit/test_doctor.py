"""`foundryrt doctor` on machines with no, one and two GPUs, by a stand-in for NVML."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from foundryrt.bundle.schema import Ranks, Tensor
from foundryrt.cli import app
from foundryrt.nvml import Nvml, visible
from tests.attacks.samples import Parts, builds, parts, with_manifest
from tests.unit.fake_nvml import GIB, FakeGpu, FakeNvml, NVMLError
from tests.unit.test_imports import imported


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("COLUMNS", "140")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A cuda bundle whose workload is installed and whose weights are there."""
    before = parts().manifest
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(4096))
    file = msgspec.structs.replace(before.weights.files[0], hint=str(weights))
    return with_manifest(
        workload=msgspec.structs.replace(before.workload, name="otfs"),
        weights=msgspec.structs.replace(before.weights, files=(file,)),
    ).write(tmp_path / "a.fdy")


def doctor(monkeypatch: pytest.MonkeyPatch, nvml: object, *arguments: object) -> Result:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    result = CliRunner().invoke(app, ["doctor", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert getattr(nvml, "open", 0) == 0
    return result


def checks(result: Result) -> dict[str, dict[str, object]]:
    return {check["what"]: check for check in json.loads(result.stdout)["bundle"]["checks"]}


@pytest.mark.parametrize(
    ("nvml", "reason"),
    [
        (None, "nvidia-ml-py is not installed"),
        (FakeNvml(refuses="NVML Shared Library Not Found"), "NVML Shared Library Not Found"),
        (FakeNvml(refuses="Insufficient Permissions"), "Insufficient Permissions"),
        (FakeNvml(), "580.95.05, knows CUDA 13.0"),
    ],
)
def test_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, bundle: Path, nvml: object, reason: str
) -> None:
    """What can be done here is said, and is no failure; a bundle for a GPU is one."""
    result = doctor(monkeypatch, nvml)
    assert result.exit_code == 0 and reason in result.stdout and "extras" in result.stdout
    failed = doctor(monkeypatch, nvml, bundle)
    assert failed.exit_code == 1 and "it cannot run here" in failed.stdout
    report = doctor(monkeypatch, nvml, bundle, "--json")
    assert report.exit_code == 1 and checks(report)["GPU"]["ok"] is False


def test_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(
        FakeGpu(processes=[(11, 3 * GIB), (12, None), (13, GIB)], mode=3, persistence=0),
        names={11: "python\x1b[2J", 12: UnicodeDecodeError("utf-8", b"", 0, 1, "odd")},
    )
    page = doctor(monkeypatch, nvml).stdout
    for text in ("NVIDIA H200", "sm_90", "37% busy, 41 C, 120 W", "exclusive process", "GPU-0a",
                 "no persistence", r"python\x1b[2J", "3.2 GB", "unknown"):  # fmt: skip
        assert text in page
    assert "\x1b[2J" not in page and "Links" not in page
    machine = json.loads(doctor(monkeypatch, nvml, "--json").stdout)["machine"]
    assert machine["gpus"][0]["processes"][1:] == [
        {"pid": 12, "name": None, "memory": None},
        {"pid": 13, "name": None, "memory": GIB},
    ]
    assert machine["visible"] == [0] and machine["driver"] == "580.95.05"


def test_what_may_not_be_asked_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = NVMLError("Insufficient Permissions")
    gpu = FakeGpu(refused, capability=refused, processes=refused, watts=refused, mode=refused)
    page = doctor(monkeypatch, FakeNvml(gpu))
    assert page.exit_code == 0 and "processes not told" in page.stdout
    machine = json.loads(doctor(monkeypatch, FakeNvml(gpu), "--json").stdout)["machine"]
    told = machine["gpus"][0]
    assert (told["name"], told["architecture"], told["processes"]) == ("unknown", "unknown", None)


@pytest.mark.parametrize(
    ("switched", "direct", "path", "nvlinks"),
    [(18, 0, "NVLink switch", 18), (0, 4, "NVLink", 4), (0, 0, "several PCIe switches", 0)],
)
def test_two_gpus_and_their_links(
    monkeypatch: pytest.MonkeyPatch, switched: int, direct: int, path: str, nvlinks: int
) -> None:
    second = FakeGpu(uuid="GPU-1b")
    first = FakeGpu(switched=switched, linked=[second] * direct)
    nvml = FakeNvml(first, second)
    assert path in doctor(monkeypatch, nvml).stdout
    machine = json.loads(doctor(monkeypatch, nvml, "--json").stdout)["machine"]
    link = {"first": 0, "second": 1, "path": path, "nvlinks": nvlinks, "peer": True}
    assert machine["links"] == [link]
    apart = doctor(monkeypatch, FakeNvml(first, second, peer=NVMLError("Unknown")), "--json")
    assert json.loads(apart.stdout)["machine"]["links"][0]["peer"] is None


def test_a_bundle_that_fits(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    monkeypatch.setenv("FOUNDRY_LIBCUDA", "libc.so.6")  # any library that can be loaded
    result = doctor(monkeypatch, FakeNvml(FakeGpu()), bundle)
    assert result.exit_code == 0 and "it can run here" in result.stdout, result.stdout
    report = doctor(monkeypatch, FakeNvml(FakeGpu()), bundle, "--json")
    assert json.loads(report.stdout)["bundle"]["fits"] is True
    assert all(check["ok"] and not check["remedy"] for check in checks(report).values())


def test_another_gpu_would_do(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    monkeypatch.setenv("FOUNDRY_LIBCUDA", "libc.so.6")
    old = FakeGpu("NVIDIA L4", "GPU-9z", capability=(8, 9), used=140 * GIB)
    found = checks(doctor(monkeypatch, FakeNvml(old, FakeGpu()), bundle, "--json"))
    assert found["architecture"]["ok"] is False and found["device memory"]["ok"] is False
    assert "CUDA_VISIBLE_DEVICES=GPU-0a" in str(found["architecture"]["remedy"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert doctor(monkeypatch, FakeNvml(old, FakeGpu()), bundle).exit_code == 0


def test_a_bundle_that_is_built_for_two_architectures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = builds("sm_89").write(tmp_path / "a.fdy")
    for capability, fits in (((8, 9), True), ((9, 0), True), ((8, 0), False)):
        gpu = FakeGpu("a GPU", "GPU-9z", capability=capability)
        found = checks(doctor(monkeypatch, FakeNvml(gpu), path, "--json"))["architecture"]
        assert found["ok"] is fits and found["needed"] == "sm_90 or sm_89"


def test_what_a_bundle_lacks(monkeypatch: pytest.MonkeyPatch, bundle: Path, tmp_path: Path) -> None:
    busy = FakeGpu(processes=[(11, None)], mode=3)
    found = checks(
        doctor(monkeypatch, FakeNvml(busy), bundle, "--json", "--weights", tmp_path / "x")
    )
    assert found["compute mode"]["ok"] is False
    assert found["weights"]["ok"] is False and "--weights" in str(found["weights"]["remedy"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hidden = checks(doctor(monkeypatch, FakeNvml(busy), bundle, "--json"))
    assert "CUDA_VISIBLE_DEVICES= leaves none" in str(hidden["GPU"]["remedy"])
    unknown = doctor(monkeypatch, FakeNvml(busy), parts().write(tmp_path / "b.fdy"), "--json")
    assert checks(unknown)["workload"]["ok"] is None


def for_ranks(world: int, **changes: object) -> Parts:
    """The valid bundle for several ranks."""
    manifest = parts().manifest
    slabs = msgspec.structs.replace(manifest.regions[2], size=world * 4096)
    words = Tensor(
        name="ranks", region=1, offset=512, dtype="int32", shape=(4,), strides=(1,), role="state"
    )
    return with_manifest(
        ranks=Ranks(world=world, words=2), regions=(*manifest.regions[:2], slabs),
        tensors=(*manifest.tensors, words), **changes,
    )  # fmt: skip


def test_a_gpu_for_each_rank(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = for_ranks(2).write(tmp_path / "ranks.fdy")
    one, two = (
        checks(doctor(monkeypatch, FakeNvml(*gpus), path, "--json"))["GPUs"]
        for gpus in ((FakeGpu(),), (FakeGpu(), FakeGpu(uuid="GPU-1b")))
    )
    assert (one["ok"], one["needed"], one["found"]) == (None, "2, one a rank", "1")
    assert "--devices" in str(one["remedy"]) and two["ok"] is True
    alone = doctor(monkeypatch, FakeNvml(FakeGpu()), parts().write(tmp_path / "a.fdy"), "--json")
    assert "GPUs" not in checks(alone)


def test_ranks_of_a_host_bundle_share_its_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    needs = msgspec.structs.replace(
        parts().manifest.requirements, architecture="", driver=0, torch="2.0.0", memory=3 << 20
    )
    host = {"target": "host", "requirements": needs, "relocatable": False}
    path = for_ranks(4, **host).write(tmp_path / "host.fdy")
    found = checks(doctor(monkeypatch, FakeNvml(), path, "--json"))
    assert found["memory"]["needed"].startswith("12.6 MB")


def test_a_host_bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    needs = msgspec.structs.replace(
        parts().manifest.requirements, architecture="", driver=0, torch="1.0.0", memory=1 << 60
    )
    sample = with_manifest(target="host", requirements=needs, relocatable=False)
    path = sample.write(tmp_path / "host.fdy")
    found = checks(doctor(monkeypatch, FakeNvml(), path, "--json"))
    assert found["torch"]["ok"] is False and found["memory"]["ok"] is False


def test_a_bundle_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = doctor(monkeypatch, FakeNvml(), tmp_path / "none.fdy")
    assert result.exit_code == 2 and result.stdout == ""


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, [0, 1]),
        ("", []),
        ("1", [1]),
        ("1,0", [1, 0]),
        ("1,7,0", [1]),
        ("-1,0", []),
        ("GPU-1b", [1]),
        ("GPU", []),
        ("MIG-5", []),
    ],
)
def test_visible_devices(
    monkeypatch: pytest.MonkeyPatch, setting: str | None, expected: list[int]
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(FakeGpu(), FakeGpu(uuid="GPU-1b")))
    with Nvml() as nvml:
        assert [gpu.index for gpu in visible(nvml.gpus(), setting)] == expected


def test_mig_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    part = FakeGpu(uuid="MIG-51")
    for instances, setting, expected in (((part,), "MIG-5", [0]), ((), None, [])):
        gpu = FakeGpu(mig=[1, 1], instances=instances)
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(gpu))
        with Nvml() as nvml:
            assert [found.index for found in visible(nvml.gpus(), setting)] == expected


def test_nothing_of_the_doctor_is_imported_elsewhere() -> None:
    modules, _ = imported("import foundryrt.cli")
    assert "pynvml" not in modules
