"""What the argparse commands share: types of arguments, help with defaults, exit codes."""

from __future__ import annotations

from argparse import Action, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable

from foundryrt.console import note
from foundryrt.errors import FoundryError


def exit_code(command: Callable[[], None]) -> int:
    """Run `command`; a FoundryError is one line on stderr and its exit code, Ctrl-C is 130."""
    try:
        command()
    except FoundryError as error:
        note(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


class HelpWithDefaults(RawDescriptionHelpFormatter):
    """The description unwrapped, and each option with its default."""

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


def seed(text: str) -> int:
    """An integer from 0 to 2^63-1, as a sender's header and a recording's annotation hold it."""
    value = natural(text)
    if value >= 1 << 63:
        raise ArgumentTypeError(f"{text}: use 0 to 2^63-1")
    return value


def decibels(text: str) -> float:
    """A signal-to-noise ratio that `foundryrt run --snr` takes, too."""
    value = finite(text)
    if not -100 <= value <= 200:
        raise ArgumentTypeError(f"{text}: use -100 to 200 dB")
    return value


def seconds(text: str) -> float:
    """A finite time from 0 on."""
    try:
        value = float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r}: need a number of seconds") from None
    if not 0 <= value <= 1e6:
        raise ArgumentTypeError(f"{text}: use 0 to 1000000 seconds")
    return value


def finite(text: str) -> float:
    """A number of magnitude up to 1e9."""
    try:
        value = float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r}: need a number") from None
    if not abs(value) <= 1e9:
        raise ArgumentTypeError(f"{text}: use -1e9 to 1e9")
    return value


def _at_least(least: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r}: need an integer") from None
    if value < least:
        raise ArgumentTypeError(f"{text}: use {least} or more")
    return value
