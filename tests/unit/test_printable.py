"""What comes from outside cannot steer the terminal, rich, or a reader of JSON."""

from __future__ import annotations

import ast
import json
import logging
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

import foundryrt
from foundryrt.console import (
    as_json,
    note,
    print_json,
    print_table,
    reporting,
    run_app,
    write,
)
from foundryrt.errors import FoundryError
from foundryrt.printable import harmless, printable, quoted, size

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


def test_prose_keeps_its_lines_and_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    text = "one\ttwo\u00a0three\u3000four \U0001f468\u200d\U0001f469\n\n"
    write(text + HOSTILE + "\x1b]0;x\x07\n")
    shown = capsys.readouterr().out
    assert shown.startswith(text)
    assert not set("\x1b\x9b\x07\r\u202e") & set(shown) and shown.endswith(r"\x1b]0;x\x07" + "\n")


def test_errors_and_logs_are_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    assert str(FoundryError(HOSTILE)).isprintable() is False  # Its one line break stays.
    assert harmless(HOSTILE) == str(FoundryError(HOSTILE))
    kept = logging.lastResort.formatter

    def app() -> None:
        logging.lastResort.handle(logging.makeLogRecord({"msg": HOSTILE, "levelno": 40}))

    try:
        run_app(app)
    finally:
        logging.lastResort.setFormatter(kept)
    assert capsys.readouterr().err == harmless(HOSTILE) + "\n"


def test_a_long_name_is_cut() -> None:
    assert quoted("x\n") == r"'x\n'"
    assert len(quoted("x" * 10**6)) < 110 and quoted("x" * 10**6).endswith("…'")


def test_a_json_document_for_a_file_is_json() -> None:
    assert json.loads(as_json({"ber": [float("nan"), 1.5]})) == {"ber": [None, 1.5]}


def test_nothing_else_writes_to_the_terminal() -> None:
    """`print` and the streams are used by the two modules that make text harmless.

    And by a client that starts without their imports, and by a process that only we read.
    """
    root = Path(foundryrt.__file__).parents[1]
    doors = {"foundryrt/console.py", "foundryrt/progress.py"}
    doors |= {"foundryrt/standby/client.py", "foundryrt/cuda/outputs.py"}
    found = set()
    for package in ("foundryrt", "foundryc", "otfs_pipeline", "parse_runtime", "hf_runtime"):
        for path in (root / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                printing = isinstance(node, ast.Call) and ast.unparse(node.func) in (
                    "print", "sys.stdout.write", "sys.stderr.write", "typer.echo", "click.echo",
                )  # fmt: skip
                if printing:
                    found.add(path.relative_to(root).as_posix())
    assert found == doors


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "unknown"), (0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"),
     (999_960, "1.0 MB"), (5_123_000_000, "5.1 GB"), (1 << 64, "18.4 EB")],
)  # fmt: skip
def test_sizes(count: int | None, text: str) -> None:
    assert size(count) == text
