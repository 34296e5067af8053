"""Types of command-line arguments; what does not fit is argparse's error, exit code 2."""

from __future__ import annotations

from argparse import ArgumentTypeError


def natural(text: str) -> int:
    """An integer from 0 on."""
    return _at_least(0, text)


def positive(text: str) -> int:
    """An integer from 1 on."""
    return _at_least(1, text)


def _at_least(least: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r}: need an integer") from None
    if value < least:
        raise ArgumentTypeError(f"{text}: use {least} or more")
    return value
