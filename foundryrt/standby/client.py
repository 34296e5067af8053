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
        for number in _SIGNALS:
            _signal.signal(number, lambda n, _: wire.send(connection, "signal", str(n)))
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


def _failed(problem: str) -> int:
    from foundryrt.printable import printable

    print(f"error: {printable(problem)}", file=sys.stderr)
    return 1
