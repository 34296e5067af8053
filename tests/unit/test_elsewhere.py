"""More processes make the same capture: their order, their results, their failures."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from foundryc.capture_file import load
from foundryc.cli import app
from foundryc.elsewhere import Elsewhere, give_back
from foundryrt.errors import FoundryError

CHILD = """
import sys, time
from foundryc.capture_file import save
from foundryc.elsewhere import moved, rows, store
from tests.fakecuda import bundle as counters
if moved():
    counters.STATE += 1 << 41
    {moved}
elif rows(0, 9):
    counters.STATE += rows(0, 9) << 30
    {grown}
else:
    {again}
save(counters.capture(), store())
print("said", sys.argv[1:])
"""


def elsewhere(
    folder: Path, again: str = "pass", moved: str = "pass", grown: str = "pass"
) -> Elsewhere:
    script = folder / "child.py"
    script.write_text(CHILD.format(again=again, moved=moved, grown=grown))
    return Elsewhere([sys.executable, str(script), "an argument"], folder, SAID.append)


SAID: list[str] = []


@pytest.fixture(autouse=True)
def checkout(monkeypatch):
    SAID.clear()
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def test_each_stores_its_capture(tmp_path, capfd):
    with elsewhere(tmp_path) as others:
        others.begin()
        again, moved = others.again(), others.moved()
        assert not (tmp_path / "grown").exists()  # it runs where something grows
        assert others.grown().regions[0].base - again.regions[0].base == 9 << 30
        assert others.between().regions[0].base - again.regions[0].base == 4 << 30
    assert moved.regions[0].base - again.regions[0].base == 1 << 41
    assert capfd.readouterr() == ("", "")
    assert load(tmp_path / "again").graphs[0].nodes == 5


def test_no_address_in_the_heap_has_one_lowest_byte_in_both(tmp_path):
    lowest = "assert {{id(object()) & 16 for _ in range(100)}} == {{{}}}"
    with elsewhere(tmp_path, again=lowest.format(0), moved=lowest.format(16)) as others:
        others.begin()
        others.moved()


@pytest.mark.parametrize("which", ["again", "moved", "grown"])
@pytest.mark.parametrize(
    ("said", "told"),
    [("error: no memory is left", "^no memory is left; so ended .* made {}"),
     ("Traceback, and so on", "^exit status 1: Traceback, and so on; so ended .* made {}")],
)  # fmt: skip
def test_what_a_failing_one_said_is_passed_on(tmp_path, which, said, told):
    fails = {which: f"sys.exit({said!r})"}
    with (
        elsewhere(tmp_path, **fails) as others,
        pytest.raises(FoundryError, match=told.format(which)),
    ):
        others.begin()
        others.moved()
        others.grown()


FAILS_IN_OURS = """
import os
if "LD_BIND_NOW" in os.environ:
    {}
"""


# Every end of one of them, then an end of each other one.
@pytest.mark.parametrize(
    ("which", "end"),
    [("again", "os.abort()"), ("again", "os._exit(139)"),
     ("again", "sys.exit('a.so: undefined symbol: f')"),
     ("again", "sys.exit('Fatal Python error: PYTHONMALLOC: unknown allocator')"),
     ("moved", "os.abort()"), ("grown", "os.abort()")],
)  # fmt: skip
def test_one_that_fails_in_our_environment_runs_in_the_users(tmp_path, which, end):
    fails = {which: FAILS_IN_OURS.format(end).replace("\n", "\n    ")}
    with elsewhere(tmp_path, **fails) as others:
        others.begin()
        assert others.moved().graphs and others.again().graphs and others.grown().graphs
    assert len(SAID) == 1  # the others are not tried there


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "sys.exit(1)", "sys.exit('no')"])
def test_one_that_fails_for_its_own_reasons_runs_once(tmp_path, end):
    counted = f"import os; open({str(tmp_path / 'runs')!r}, 'a').write('x'); {end}"
    with elsewhere(tmp_path, again=counted) as others, pytest.raises(FoundryError):
        others.begin()
    assert (tmp_path / "runs").read_text() == "x" and SAID == []


def test_one_that_fails_in_both_environments_says_why(tmp_path):
    with (
        elsewhere(tmp_path, again="import os; print('whatever', flush=True); os.abort()") as others,
        pytest.raises(FoundryError, match="exit status -6: whatever"),
    ):
        others.begin()
    assert len(SAID) == 1


def test_what_a_program_starts_has_the_users_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONMALLOC", "debug")
    monkeypatch.delenv("LD_BIND_NOW", raising=False)
    before = (
        "import os; from foundryc.elsewhere import give_back; "
        "assert os.environ['PYTHONMALLOC'] == 'malloc' and 'LD_BIND_NOW' in os.environ; "
        "give_back(); assert os.environ['PYTHONMALLOC'] == 'debug'; "
        "assert not {'LD_PRELOAD', 'LD_BIND_NOW', 'FOUNDRY_HEAP_HALF', 'FOUNDRY_GIVEN'}"
        " & set(os.environ)"
    )
    with elsewhere(tmp_path, again=before, moved=before) as others:
        others.begin()
        others.moved()


def test_a_capture_gives_it_back_before_anything_else(monkeypatch):
    monkeypatch.setenv("LD_BIND_NOW", "1")
    monkeypatch.setenv("FOUNDRY_GIVEN", '{"LD_BIND_NOW": null}')
    assert CliRunner().invoke(app, ["capture", "is_nowhere.py"]).exit_code == 2
    assert not {"LD_BIND_NOW", "FOUNDRY_GIVEN"} & set(os.environ)


def test_without_anything_given_nothing_is_given_back(monkeypatch):
    monkeypatch.setenv("LD_BIND_NOW", "1")
    kept = dict(os.environ)
    give_back()
    assert dict(os.environ) == kept


def test_one_that_still_runs_is_ended(tmp_path):
    with elsewhere(tmp_path, moved="time.sleep(600)") as others:
        others.begin()
        process = others._running["moved"].process
        assert process.poll() is None
    assert process.returncode == -9
