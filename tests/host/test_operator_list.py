"""The list of admitted operators is what its command makes of recorded names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from foundryrt.host.operators import operator
from tests.host import operator_list
from tests.host.operator_list import ADDED, DROPPED, LIST, RECORDED, made, names, operator_of


def test_the_command_prints_the_list() -> None:
    command = [sys.executable, "-m", "tests.host.operator_list"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=LIST.parents[2], check=True)
    assert done.stdout.split() == names(LIST)


def test_every_line_has_its_reason() -> None:
    recorded, added = names(RECORDED), names(ADDED)
    for found in (recorded, added):
        assert found == sorted(set(found))
    assert {operator_of(name) for name in recorded} >= DROPPED.keys()
    assert not set(added) & set(recorded)
    kinds = {operator_of(name).rstrip("_") for name in recorded} - DROPPED.keys()
    for name in added:
        assert operator_of(name).rstrip("_") in kinds, name
    for name in made():
        operator(f"aten::{name}")


def test_names_come_from_corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, target = tmp_path / "recorded.txt", tmp_path / "list.txt"
    copy.write_text("# recorded\nold\n")
    target.write_text("# the list\nolder\n")
    monkeypatch.setattr(operator_list, "RECORDED", copy)
    monkeypatch.setattr(operator_list, "LIST", target)
    for number, called in enumerate((["aten::relu", "aten::lcm"], ["aten::add.Tensor"])):
        entries = [(name, b"", [], b"") for name in called]
        (tmp_path / f"{number}").write_bytes(msgspec.msgpack.encode(entries))
    operator_list.main(["--record", f"{tmp_path / '0'},{tmp_path / '1'}"])
    assert copy.read_text() == "# recorded\nadd.Tensor\nlcm\nrelu\n"
    operator_list.main(["--write"])
    assert target.read_text().startswith("# the list\n") and names(target) == made()
    assert set(made()) == {"add.Tensor", "relu", *names(ADDED)}
