"""What both commands share: one line for an error, the right exit code, JSON on stdout."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from foundryrt import __version__, options
from foundryrt.errors import DISTRIBUTION, FoundryError


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
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None


def run_app(app: Callable[[], None]) -> None:
    """Run a command to its end, which is reached when its output is out.

    Where stdout or a file fails in a way that the command does not know, one line says so.
    """
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
        sys.exit(f"error: {error.filename or 'output'}: {error.strerror or error}")
    except FoundryError as error:
        sys.exit(f"error: {error}")


def _forget_output() -> None:
    # What is left in the buffer would fail again at exit.
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def write(text: str) -> None:
    """Put `text` on stdout at once; FoundryError where it does not get there."""
    if sys.stdout is None:
        raise FoundryError("stdout is closed")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # Nobody reads any more, and nobody wants to hear of it.
    except OSError as error:
        _forget_output()
        raise FoundryError(f"stdout: {error.strerror}") from None


def print_json(value: object) -> None:
    """Results for programs: one JSON document on stdout."""
    write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_options(rows: list[tuple[str, str, str]], title: str, json: bool) -> None:
    """A workload's options, as `options.describe` gives them: a table with a title, or JSON."""
    if json:
        print_json([dict(zip(options.COLUMNS, row, strict=True)) for row in rows])
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*options.COLUMNS, title=title)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
