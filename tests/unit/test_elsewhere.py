"""More processes make the same capture: their order, their results, their failures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from foundryc.capture_file import load
from foundryc.elsewhere import Elsewhere
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
    return Elsewhere([sys.executable, str(script), "an argument"], folder)


@pytest.fixture(autouse=True)
def checkout(monkeypatch):
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


def test_one_that_still_runs_is_ended(tmp_path):
    with elsewhere(tmp_path, moved="time.sleep(600)") as others:
        others.begin()
        process, _ = others._running["moved"]
        assert process.poll() is None
    assert process.returncode == -9
