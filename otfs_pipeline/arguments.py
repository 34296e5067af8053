"""Command-line arguments: their types, an error of argparse (exit code 2) for others; --help."""

from __future__ import annotations

from argparse import Action, ArgumentTypeError, RawDescriptionHelpFormatter


class HelpWithDefaults(RawDescriptionHelpFormatter):
    """The description as it is written; each option with its default, where it has one."""

    def _get_help_string(self, action: Action) -> str:
        unset = action.default is None or action.default is False or action.default == ""
        default = "" if unset or action.nargs == 0 else " [default: %(default)s]"
        return (action.help or "") + default


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
