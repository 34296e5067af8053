"""What both commands share: one line for an error, the right exit code, JSON on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from foundryrt.errors import FoundryError


@contextmanager
def reporting() -> Iterator[None]:
    """Turn a FoundryError into one line on stderr and its exit code."""
    try:
        yield
    except FoundryError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None


def print_json(value: object) -> None:
    """Results for programs: one JSON document on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
