"""What this process is."""

from __future__ import annotations

_command = False


def begin_command() -> None:
    """Say that it is a command's: what it has imported stays until it ends."""
    global _command
    _command = True


def is_command() -> bool:
    """Whether it is a command's, and not of a program that uses the library."""
    return _command
