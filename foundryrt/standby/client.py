"""A command that another process runs: its files, folder and environment go there, signals too.

Imports little: the command is to be quicker than one that starts by itself.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

from foundryrt.standby import wire


def hand_over(path: str, arguments: list[str]) -> int:
    """Have the process that listens at `path` run `foundryrt` with these arguments; exit code."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
        except OSError as error:
            return _failed(
                f"no process stands by at {path} ({error.strerror}); start one with"
                " foundryrt standby"
            )
        job = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda n, _: wire.send(connection, {"signal": n}))
            wire.send(connection, job, (0, 1, 2))
            answer, _ = wire.receive(connection)
        except (OSError, ValueError) as error:
            return _failed(f"the process that stands by at {path} does not answer: {error}")
    if answer is None:
        return _failed(f"the process that stands by at {path} has ended meanwhile")
    if "refused" in answer:
        return _failed(str(answer["refused"]))
    return int(answer["exit"])


def _failed(problem: str) -> int:
    from foundryrt.printable import printable

    print(f"error: {printable(problem)}", file=sys.stderr)
    return 1
