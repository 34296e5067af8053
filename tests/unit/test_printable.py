"""What comes from outside cannot steer the terminal, rich, or a reader of JSON."""

from __future__ import annotations

import json

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from foundryrt.console import note, print_json, print_table, reporting
from foundryrt.errors import FoundryError
from foundryrt.printable import printable, size

HOSTILE = "a\x1b[31m\r\n\x9b2J\u202eb\udcff[/x][bold]:smile:"


def test_what_a_terminal_obeys_is_spelled_out() -> None:
    assert printable(HOSTILE) == (r"a\x1b[31m\r\n\x9b2J\u202eb\udcff[/x][bold]:smile:")
    assert printable("grün 日本 é") == "grün 日本 é"


@given(st.text(st.characters()))
def test_everything_is_printable(text: str) -> None:
    assert printable(text).isprintable()


def test_a_table_shows_markup_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(HOSTILE, ["[/x]"], [[HOSTILE], [3]])
    shown = capsys.readouterr().out
    assert "[/x][bold]:smile:" in shown and r"\x1b[31m" in shown
    assert all(line.isprintable() for line in shown.splitlines())


def test_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    value = {HOSTILE: [float("nan"), float("-inf"), 0.5, HOSTILE, (1, None)], "x": "\U000e0001é"}
    print_json(value)
    shown = capsys.readouterr().out
    assert all(line.isprintable() for line in shown.split("\n"))
    assert json.loads(shown) == {HOSTILE: [None, None, 0.5, HOSTILE, [1, None]], "x": value["x"]}
    assert "é" in shown


def test_an_error_cannot_pass_for_two(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, reporting():
        raise FoundryError("no \x1b[2J\nerror: all is well")
    assert ended.value.exit_code == 1
    note("what\n\nis")
    expected = "error: no \\x1b[2J\n  error: all is well\nwhat\n  \n  is\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "unknown"), (0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"),
     (999_960, "1.0 MB"), (5_123_000_000, "5.1 GB"), (1 << 64, "18.4 EB")],
)  # fmt: skip
def test_sizes(count: int | None, text: str) -> None:
    assert size(count) == text
