"""What both commands share: one line for an error, the right exit code, JSON on stdout.

Nothing else here or in a workload writes to the terminal: `write`, `note`, `print_table` and
`print_json` let no control character of what comes from outside through (foundryrt/printable.py).
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from foundryrt import __version__, options
from foundryrt.errors import DISTRIBUTION, FoundryError
from foundryrt.printable import harmless, printable
from foundryrt.process import begin_command
from foundryrt.progress import clear_bar, progress_bar

__all__ = [
    "Json", "Version", "as_json", "note", "print_json", "print_options", "print_table", "printable",
    "progress_bar", "reporting", "run_app", "write",
]  # fmt: skip


def _version(asked: bool) -> None:
    if asked:
        write(f"{DISTRIBUTION} {__version__}\n")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit."),
]
"""For the callback of a command's app."""

Json = Annotated[bool, typer.Option("--json", help="Results as JSON on stdout.")]
"""For a command that reports; it gives `print_json` its results."""


@contextmanager
def reporting() -> Iterator[None]:
    """Turn a FoundryError into one line on stderr and its exit code."""
    try:
        yield
    except FoundryError as error:
        note(f"error: {error}")
        raise typer.Exit(error.exit_code) from None


def note(text: object) -> None:
    """Say something to the person at the terminal: on stderr, with nothing but its letters.

    Later lines of a text are indented, so that no name can pass for a line of ours. Where stderr is
    closed or full, or its reader gone, nothing is said: no work fails for a line about it.
    """
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError, ValueError):
        clear_bar()
        print("\n  ".join(printable(line) for line in str(text).split("\n")), file=sys.stderr)


def run_app(app: Callable[[], object]) -> None:
    """Run a command to its end, which is reached when its output is out.

    Where stdout or a file fails in a way that the command does not know, one line says so.
    """
    begin_command()
    if logging.lastResort is not None:
        # Libraries and servers log what a client or a file said.
        logging.lastResort.setFormatter(_HarmlessLines())
    with contextlib.suppress(AttributeError):
        # Names of files need not be UTF-8.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        try:
            app()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        _forget_output()  # Nobody reads any more, and nobody wants to hear of it.
        sys.exit(1)
    except OSError as error:
        _forget_output()
        sys.exit(f"error: {printable(error.filename or 'output')}: {error.strerror or error}")
    except FoundryError as error:
        note(f"error: {error}")
        sys.exit(1)
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        sys.exit("error: no thread can be started: raise ulimit -u, or the container's pids limit")


class _HarmlessLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return harmless(super().format(record))


def _forget_output() -> None:
    # What is left in the buffer would fail again at exit.
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def write(text: str) -> None:
    """Put lines of text on stdout at once, harmless; FoundryError where they do not get there."""
    if sys.stdout is None:
        raise FoundryError("stdout is closed")
    clear_bar()
    try:
        sys.stdout.write(harmless(text))
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # Nobody reads any more, and nobody wants to hear of it.
    except OSError as error:
        _forget_output()
        raise FoundryError(f"stdout: {error.strerror}") from None


def print_json(value: object) -> None:
    """Results for programs: one JSON document on stdout."""
    write(as_json(value))


def as_json(value: object) -> str:
    """`value` as a JSON document of harmless lines.

    JSON has no NaN and no infinity: they become null.
    """
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    return "\n".join(map(_json_line, text.split("\n"))) + "\n"


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _json_line(line: str) -> str:
    # What json leaves as it is, such as U+009B, may still be a command to a terminal.
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout; cells are shown letter by letter, whatever they hold."""
    from rich.console import Console
    from rich.table import Column, Table

    # Names are folded, not cut: their ends tell them apart.
    heads = (Column(printable(name), overflow="fold") for name in columns)
    table = Table(*heads, title=printable(title) if title else None, title_justify="left")
    for row in rows:
        table.add_row(*map(printable, row))
    clear_bar()
    Console(markup=False, emoji=False, highlight=False).print(table)


def print_options(rows: list[tuple[str, str, str]], title: str, json: bool) -> None:
    """A workload's options, as `options.describe` gives them: a table with a title, or JSON."""
    if json:
        print_json([dict(zip(options.COLUMNS, row, strict=True)) for row in rows])
    elif rows:
        print_table(title, options.COLUMNS, rows)
    else:
        write(f"{title}: no options\n")
