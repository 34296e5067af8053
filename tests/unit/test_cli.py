"""The commands that look at bundles: pages, JSON, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from foundryc import report
from foundryrt import __version__
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Region
from tests.attacks.samples import Parts, parts, with_manifest, with_member


def foundryc(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from foundryc.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={"COLUMNS": "100"})


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return parts().write(tmp_path / "a.fdy")


def test_inspect(bundle: Path) -> None:
    done = foundryc("inspect", bundle)
    assert done.returncode == 0
    for text in ("sample", "sm_90", "decode[batch=8]", "symmetric", "model.safetensors", "zstd"):
        assert text in done.stdout
    got = json.loads(foundryc("inspect", bundle, "--json").stdout)
    assert got["manifest"]["graphs"][0]["key"] == {"batch": 8}
    assert got["nodes"] == 3 and len(got["sections"]) == 6


def test_verify(bundle: Path) -> None:
    assert "ok, 6 sections" in foundryc("verify", bundle).stdout
    assert json.loads(foundryc("verify", bundle, "--json").stdout)["ok"] is True
    data = bytearray(bundle.read_bytes())
    data[4100] ^= 1
    bundle.write_bytes(data)
    done = foundryc("verify", bundle)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {bundle}: section 'template 0'")


def test_diff(bundle: Path, tmp_path: Path) -> None:
    assert foundryc("diff", bundle, bundle).stdout == "equal\n"
    changed = with_member(value=[101, 3])
    regions = list(changed.manifest.regions)
    regions[1] = msgspec.structs.replace(regions[1], size=1024)
    changed.manifest = msgspec.structs.replace(changed.manifest, regions=tuple(regions))
    other = changed.write(tmp_path / "b.fdy")
    done = foundryc("diff", bundle, other, "--json")
    assert done.returncode == 1
    differences = json.loads(done.stdout)["differences"]
    word = "graph decode[batch=8], node 0, kernel 'gemm': word 0 of its parameters"
    assert {(d["what"], d["name"]) for d in differences} == {
        ("graph", "decode[batch=8]"),
        ("region", "io"),
        ("word", f"{word}, first of 2 words"),
    }
    assert [d["b"] for d in differences if d["what"] == "word"] == ["0x65"]
    first = with_member(value=[102, 3]).write(tmp_path / "c.fdy")
    other = with_member(value=[101, 3]).write(tmp_path / "b.fdy")
    differences = json.loads(foundryc("diff", first, other, "--json").stdout)["differences"]
    assert differences[1] == {"what": "word", "name": word, "a": "0x66", "b": "0x65"}
    page = foundryc("diff", bundle, other)
    assert page.returncode == 1 and "decode[batch=8]" in page.stdout


def test_diff_shows_names_to_their_end(bundle: Path, tmp_path: Path) -> None:
    name = "a_setting_whose_name_is_longer_than_its_column_" * 2 + "end"
    workload = msgspec.structs.replace(parts().manifest.workload, settings={name: 1})
    other = with_manifest(workload=workload).write(tmp_path / "b.fdy")
    lines = foundryc("diff", bundle, other).stdout.splitlines()
    assert "".join(line.split("│")[2].strip() for line in lines if "│" in line).count(name) == 1


def test_diff_of_targets_and_settings(bundle: Path, tmp_path: Path) -> None:
    workload = msgspec.structs.replace(parts().manifest.workload, settings={"size": 4, "name": "x"})
    other = with_manifest(workload=workload).write(tmp_path / "b.fdy")
    differences = json.loads(foundryc("diff", bundle, other, "--json").stdout)["differences"]
    assert [(d["what"], d["name"], d["a"], d["b"]) for d in differences] == [
        ("setting", "size", "3", "4"),
        ("setting", "ratio", "0.5", ""),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "none.fdy"), "none.fdy: no such file"),
        (("capture", "--workload", "nothing", "-o", "x.fdy"), "no workload 'nothing'"),
        (("capture", "--workload", "otfs", "-o", "x.fdy", "--target", "tpu"), "--target 'tpu'"),
        (("capture", "--workload", "otfs", "-o", "x.fdy", "--gird", "1"), "no option --gird"),
        (
            ("capture", "--model", "m\udcff", "--target", "host", "-o", "x.fdy"),
            "--model 'm\\udcff': is not UTF-8",
        ),
        (("workloads", "nothing"), "no workload 'nothing'"),
        (("bogus",), "No such command"),
    ],
)
def test_usage_errors(arguments: tuple[str, ...], message: str) -> None:
    done = foundryc(*arguments)
    assert done.returncode == 2
    assert message in done.stderr and done.stdout == ""


def test_workloads() -> None:
    assert foundryc("workloads").stdout.split() == ["hf", "otfs", "parse"]
    assert "--grid" in foundryc("workloads", "otfs").stdout
    assert json.loads(foundryc("workloads", "--json").stdout) == ["hf", "otfs", "parse"]
    rows = json.loads(foundryc("workloads", "otfs", "--json").stdout)
    assert rows[0]["option"] == "--grid" and rows[0]["default"] == "1024x32"


def test_version() -> None:
    assert foundryc("--version").stdout == f"foundry-graphs {__version__}\n"


def test_sign_and_verify(bundle: Path, tmp_path: Path) -> None:
    key, public = tmp_path / "release.key", tmp_path / "release.pem"
    assert foundryc("keygen", key).returncode == 0
    refused = foundryc("verify", bundle, "--trust", public)
    assert refused.returncode == 1 and "is not signed" in refused.stderr
    assert "signed by" in foundryc("sign", bundle, "--key", key).stdout
    signed = json.loads(foundryc("sign", bundle, "--key", key, "--json").stdout)
    assert "signed by a trusted key" in foundryc("verify", bundle, "--trust", public).stdout
    signers = json.loads(foundryc("inspect", bundle, "--json").stdout)["signers"]
    assert signed == {"bundle": str(bundle), "signer": signers[0]}
    assert signers[0][:16] in foundryc("inspect", bundle).stdout
    assert foundryc("sign", bundle, "--key", public).returncode == 2


@pytest.mark.parametrize("proved", [True, False])
def test_memory_of_others_is_listed(tmp_path: Path, proved: bool) -> None:
    made = parts()
    line = "torch, for my.py:7, main"
    owners = [("a library", 1 << 20, True), (line, 512, False), ("a library", 1 << 19, False)]
    regions = [
        Region(name=f"foreign {n}", base=(n + 1) << 44, size=size, owner=owner, written=written)
        for n, (owner, size, written) in enumerate(owners)
    ]
    regions = [*made.manifest.regions, *regions]
    needs = msgspec.structs.replace(made.manifest.requirements, memory=1 << 40)
    changed = with_manifest(regions=tuple(regions), relocatable=proved, requirements=needs)
    path = changed.write(tmp_path / "a.fdy")
    seen = {True: (True, False), False: (None, None)}[proved]
    with Bundle.open(path) as bundle:
        figures = report.summary(bundle)
    assert figures["foreign"] == [
        {"owner": "a library", "regions": 2, "bytes": 3 << 19, "addresses": 0, "written": seen[0]},
        {"owner": line, "regions": 1, "bytes": 512, "addresses": 0, "written": seen[1]},
    ]
    shown = foundryc("inspect", path).stdout
    assert "a library" in shown and line in shown
    assert ("by graphs" in shown and "not seen" in shown) == proved
    assert ("not known" in shown) != proved


def results(count: int, unproved: tuple[int, ...], **changes: object) -> Parts:
    """The manifest of a bundle whose graph has so many outputs."""
    made = parts().manifest
    shared = [tensor for tensor in made.tensors if tensor.graph == -1]
    output = next(tensor for tensor in made.tensors if tensor.role == "output")
    named = [msgspec.structs.replace(output, name=f"y{n}") for n in range(count)]
    numbers = tuple(len(shared) + number for number in unproved)
    return with_manifest(tensors=(*shared, *named), unproved=numbers or msgspec.UNSET, **changes)


@pytest.mark.parametrize(
    ("count", "unproved", "said"),
    [
        (3, (), "3 of 3 outputs are the same at another place"),
        (3, (1,), "2 of 3 outputs are the same at another place"),
        (2, (0, 1), "none: no output was compared, of 2"),
        (0, (), "none: no output was compared, of 0"),
        (20, tuple(range(15)), "and 5 more"),
    ],
)
def test_what_a_proof_compared_is_said(tmp_path, capsys, count, unproved, said) -> None:
    path = results(count, unproved).write(tmp_path / "a.fdy")
    with Bundle.open(path) as bundle:
        figures = report.summary(bundle)
        title = report.graph_title(bundle.manifest.graphs[0])
    assert [row["output"] for row in figures["proof"]["not_compared"]] == [
        f"y{number}" for number in unproved
    ]
    report.print_summary(path, figures)
    for shown in (foundryc("inspect", path).stdout, capsys.readouterr().out):
        assert said in shown
        for number in unproved[:10]:
            assert f"graph {title}: 'y{number}'" in shown
        assert ("two runs differ" in shown) == bool(unproved)
    bound = results(count, (), relocatable=False).write(tmp_path / "b.fdy")
    assert json.loads(foundryc("inspect", bound, "--json").stdout)["proof"] is None
    assert "at another place" not in foundryc("inspect", bound).stdout


def test_a_capture_ends_with_memory_of_others(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {
        "graphs": 1, "nodes": 2, "templates": 1, "bundle_bytes": 5, "arena_bytes": 6,
        "target": "cuda", "foreign": [], "proof": None,
    }  # fmt: skip
    report.print_summary(Path("x.fdy"), figures)
    assert "Memory of others" not in capsys.readouterr().out
    row = {"owner": "a library", "regions": 2, "bytes": 7, "addresses": 3, "written": True}
    report.print_summary(Path("x.fdy"), figures | {"foreign": [row]})
    out = capsys.readouterr().out
    assert "Memory of others" in out and "a library" in out and "by graphs" in out
