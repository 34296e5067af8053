"""What a command and a standby process say to each other: words over a Unix socket, and files.

Of what the interpreter itself is made of alone: to import json and socket would take the command
longer than all else that it does.
"""

from __future__ import annotations

import os
import sys
from _socket import CMSG_SPACE, SCM_RIGHTS, SOL_SOCKET, socket

from foundryrt.runtime_folder import runtime_folder

TYPE_CHECKING = False  # type checkers know it as True
if TYPE_CHECKING:
    from collections.abc import Sequence

_LENGTH = 4
"""Bytes in front of a message, which say how long it is."""
_INT = 4
"""Bytes of C's int, which a file's number is."""
_MOST = 16 << 20
"""Bytes of a message: arguments and environment of a command."""


def path() -> str:
    """Where a standby process of this user listens: FOUNDRY_STANDBY, or a file of its own."""
    if chosen := os.environ.get("FOUNDRY_STANDBY"):
        return chosen
    return os.path.join(runtime_folder(), "foundryrt-standby.sock")


def send(connection: socket, *words: str, files: Sequence[int] = ()) -> None:
    """Send words, as the system gives them to programs, with copies of open files.

    No such word holds a zero byte.
    """
    data = b"\0".join(os.fsencode(word) for word in words)
    data = len(data).to_bytes(_LENGTH, "little") + data
    numbers = b"".join(file.to_bytes(_INT, sys.byteorder) for file in files)
    rights = [(SOL_SOCKET, SCM_RIGHTS, numbers)]
    sent = connection.sendmsg([data], rights) if files else 0
    if sent < len(data):  # sending nothing fails where an answer has come and its sender is gone
        connection.sendall(data[sent:])


def receive(connection: socket, files: int = 0) -> tuple[list[str] | None, list[int]]:
    """The next words and the files that came with them, at most `files`; None at the end.

    ValueError for what is no message.
    """
    data = b""
    found: list[int] = []
    if files:
        data, rights, _, _ = connection.recvmsg(1 << 16, CMSG_SPACE(files * _INT))
        for level, kind, numbers in rights:
            if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
                ends = range(_INT, len(numbers) + 1, _INT)
                found += (int.from_bytes(numbers[end - _INT : end], sys.byteorder) for end in ends)
    while len(data) < _LENGTH:
        more = connection.recv(_LENGTH - len(data))
        if not more:
            return None, found
        data += more
    length = int.from_bytes(data[:_LENGTH], "little")
    if length > _MOST:
        raise ValueError(f"a message of {length} bytes")
    while len(data) < _LENGTH + length:
        more = connection.recv(min(1 << 20, _LENGTH + length - len(data)))
        if not more:
            return None, found
        data += more
    return [os.fsdecode(word) for word in data[_LENGTH:].split(b"\0")], found
