"""A command that another process runs: its files, folder and environment go there, signals too.

Imports little: the command is to be quicker than one that starts by itself.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what `signal` imports takes milliseconds
import os
import sys
from _socket import AF_UNIX, SOCK_STREAM, socket

from foundryrt.standby import wire

_SIGNALS = (_signal.SIGINT, _signal.SIGTERM)


def message(arguments: list[str]) -> list[str]:
    """What has `foundryrt` run with these arguments, in this process's folder and environment.

    With it go the files that are to be input, output and errors.
    """
    environment = [f"{name}={value}" for name, value in os.environ.items()]
    return ["run", os.getcwd(), str(len(arguments)), *arguments, *environment]


def hand_over(path: str, arguments: list[str]) -> int:
    """Have the process that listens at `path` run `foundryrt` with these arguments; exit code."""
    connection = socket(AF_UNIX, SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError as error:
        return _failed(
            f"no process stands by at {path} ({error.strerror}); start one with foundryrt standby"
        )
    try:
        # One that comes meanwhile is kept until it can be passed on.
        _signal.pthread_sigmask(_signal.SIG_BLOCK, _SIGNALS)
        wire.send(connection, *message(arguments), files=(0, 1, 2))
        pass_on = _PassOn(connection)
        for number in _SIGNALS:
            _signal.signal(number, pass_on)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _SIGNALS)
        answer, _ = wire.receive(connection)
    except (OSError, ValueError) as error:
        return _failed(f"the process that stands by at {path} does not answer: {error}")
    finally:
        connection.close()
    if answer is None:
        return _failed(f"the process that stands by at {path} has ended meanwhile")
    kind, value = answer
    return _failed(value) if kind == "refused" else int(value)


class _PassOn:
    """Passes signals on: the first ends a command, or begins a server's grace, which a second ends.

    Where neither is heard, since the other process stands still, a third ends this one.
    """

    def __init__(self, connection: socket) -> None:
        self._connection = connection
        self._passed = 0

    def __call__(self, number: int, _: object) -> None:
        self._passed += 1
        if self._passed == 2:
            for one in _SIGNALS:
                _signal.signal(one, _signal.SIG_DFL)
        try:
            wire.send(self._connection, "signal", str(number))
        except OSError:
            return  # the command has ended: what it came to is told, or that it is gone


def _failed(problem: str) -> int:
    from contextlib import suppress

    from foundryrt.printable import printable

    if sys.stderr is not None:
        with suppress(OSError):  # nobody reads it
            print(f"error: {printable(problem)}", file=sys.stderr)
    return 1
