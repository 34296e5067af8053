"""Tensors with more rows than at capture: shared between sessions, and by options of a workload."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from foundryrt.bundle.schema import Growth
from foundryrt.cli import app
from foundryrt.errors import UsageError
from foundryrt.session import Session
from parse_runtime.serve import successor
from tests.fakecuda.test_grow import MOST, ROW, ROWS, capture
from tests.fakecuda.test_placement import save

WORKLOAD = """
import json
from dataclasses import dataclass
from foundryrt.options import option

@dataclass(frozen=True, kw_only=True)
class Options:
    rows: int = option(0, "of kv")

Serving = Options

def rows(bundle, options):
    return {"kv": options.rows} if options.rows else {}

def run(session, options, json):
    return {"rows": session.rows["kv"], "read": len(session.read("kv"))}

def serve(session, options):
    print(json.dumps(run(session, options, True)))
"""


@pytest.fixture
def path(tmp_path, fake):
    return save(tmp_path / "grows.fdy", capture())


def test_sessions_share_a_growing_tensor(path, fake):
    with Session.open(path, grow={"kv": MOST}) as first:
        first.graph("second").launch()
        second = first.beside(path, lambda own, other: ["foreign 0"])
        with second:
            assert second.rows == first.rows == {"kv": MOST}
            assert second.tensor("kv").address != first.tensor("kv").address
            second.graph("second").launch()
            second.synchronize()
            assert (first.read("kv")[1] == np.arange(ROW, 2 * ROW) + 10).all()
            assert (second.read("behind") == 0x01010101).all()
        with first.beside(path, lambda own, other: ["foreign 0"]) as third:
            first.close()
            third.graph("second").launch()
            third.write("kv", third.read("kv") + 1)
            assert (third.read("kv")[1] == np.arange(ROW, 2 * ROW) + 16).all()
    assert fake.live == ""


def test_what_cannot_have_as_many_rows_is_not_opened_beside(path, tmp_path, fake):
    fixed = save(tmp_path / "fixed.fdy", capture([]))
    few = save(tmp_path / "few.fdy", capture([Growth(tensor=2, most=7)]))
    with Session.open(path, grow={"kv": 8}) as first:
        for other, words in (
            (fixed, "no tensor 'kv' of this bundle grows; none does"),
            (few, "'kv' can have 3 to 7 rows, not 8"),
        ):
            with pytest.raises(UsageError, match=words):
                first.beside(other, lambda own, other: ["foreign 0"])
        with first.beside(few, lambda own, other: ["state"]) as apart:
            assert apart.rows == {"kv": ROWS}
    assert fake.live == ""


def test_a_server_that_goes_back_has_as_many_rows_again(path, fake, monkeypatch):
    monkeypatch.setattr(successor, "load", lambda session, unlike_tokenizers: None)
    with Session.open(path, grow={"kv": 9}) as session:
        own = session._bundle
    before = SimpleNamespace(session=session, engine=SimpleNamespace(load=(0, 0)))
    again = successor.open_again(before, own, "retokenize", lambda *_: None)
    with again.session as session:
        assert session.rows == {"kv": 9}
    assert fake.live == ""


@pytest.mark.parametrize("command", ["run", "serve"])
def test_a_workload_says_how_many_rows_its_options_ask_for(path, tmp_path, fake, command):
    file = tmp_path / f"growing_{command}.py"
    file.write_text(WORKLOAD)
    for options, found in ((["--rows", "9"], 9), ([], ROWS)):
        shown = ["--json"] if command == "run" else []
        words = [command, str(path), "--workload", str(file), *shown, *options]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout) == {"rows": found, "read": found}
    assert fake.live == ""
