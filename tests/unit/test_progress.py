"""The progress bar: silent in a file, cheap between two drawings, gone when its work is done."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from foundryrt import progress
from foundryrt.console import write
from foundryrt.progress import progress_bar


class Terminal(io.StringIO):
    """A stderr or stdout that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Stands for `time.monotonic`; moved by the test."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    shown = Terminal()
    # pytest puts its own stderr in place between a fixture and its test.
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=shown))
    monkeypatch.setenv("TERM", "xterm")
    return shown


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def last(terminal: Terminal) -> str:
    return terminal.getvalue().rpartition("\r\x1b[K")[2]


def test_it_is_silent_where_nobody_looks(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with progress_bar(3, "reading") as update:
        update(1, "note")
    assert terminal.getvalue() == ""
    for stream in (io.StringIO(), None):
        monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))
        with progress_bar(3, "reading") as update:
            update(1, "note")
        assert stream is None or stream.getvalue() == ""


def test_it_is_drawn_at_most_five_times_a_second(terminal: Terminal, clock: Clock) -> None:
    with progress_bar(1000, "receiving") as update:
        for done in range(1, 1001):
            clock.now += 0.001
            update(done, f"frames, {done} missed")
        assert terminal.getvalue().count("receiving") == 6
        clock.now += 64
        update(500, "frames")
        half = "#" * 15 + "." * 15
        assert last(terminal) == f"receiving [{half}] 500/1000 frames (1:05)"
    assert last(terminal) == ""


def test_an_unknown_total_has_no_bar(terminal: Terminal, clock: Clock) -> None:
    with progress_bar(0, "receiving") as update:
        clock.now += 1
        update(7)
        assert last(terminal) == "receiving 7 (0:01)"


def test_a_new_phase_is_shown_at_once(terminal: Terminal, clock: Clock) -> None:
    with progress_bar(0, "capturing") as update:
        update(0, "loading")
        update(0, "writing")
        assert last(terminal) == "capturing writing (0:00)"


def test_more_than_was_expected_and_a_long_note(terminal: Terminal, clock: Clock) -> None:
    with progress_bar(2, "sending") as update:
        clock.now += 1
        update(5, "x" * 300 + "\x1b[2J")
        assert last(terminal).startswith(f"sending [{'#' * 30}] 5/2 xxx")
        assert len(last(terminal)) == 79 and "\x1b[2J" not in last(terminal)


def test_output_stands_on_a_line_of_its_own(
    terminal: Terminal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", terminal)
    with progress_bar(2, "answers") as update:
        write("first answer\n")
        assert terminal.getvalue().endswith("\r\x1b[Kfirst answer\n")
        update(1)
        assert last(terminal).startswith("answers [")
    write("end\n")
    assert terminal.getvalue().endswith("\r\x1b[Kend\n")


def test_it_goes_with_an_error(terminal: Terminal) -> None:
    with pytest.raises(ValueError), progress_bar(2, "answers"):
        raise ValueError
    assert last(terminal) == ""
