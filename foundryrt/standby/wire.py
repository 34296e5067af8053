"""What a command and a standby process say to each other: JSON over a Unix socket, and files."""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import Any

from foundryrt.runtime_folder import runtime_folder

_LENGTH = struct.Struct("<I")
_MOST = 16 << 20
"""Bytes of a message: arguments and environment of a command."""


def path() -> str:
    """Where a standby process of this user listens: FOUNDRY_STANDBY, or a file of its own."""
    if chosen := os.environ.get("FOUNDRY_STANDBY"):
        return chosen
    return os.path.join(runtime_folder(), "foundryrt-standby.sock")


def send(connection: socket.socket, message: dict[str, Any], files: tuple[int, ...] = ()) -> None:
    """Send a message, with copies of open files."""
    data = json.dumps(message).encode()
    data = _LENGTH.pack(len(data)) + data
    sent = socket.send_fds(connection, [data], list(files)) if files else 0
    if sent < len(data):  # sending nothing fails where an answer has come and its sender is gone
        connection.sendall(data[sent:])


def receive(connection: socket.socket, files: int = 0) -> tuple[dict[str, Any] | None, list[int]]:
    """The next message and the files that came with it, at most `files`; None at the end.

    ValueError for what is no message.
    """
    data = b""
    found: list[int] = []
    if files:
        data, found, _, _ = socket.recv_fds(connection, 1 << 16, files)
    while len(data) < _LENGTH.size:
        more = connection.recv(_LENGTH.size - len(data))
        if not more:
            return None, found
        data += more
    (length,) = _LENGTH.unpack_from(data)
    if length > _MOST:
        raise ValueError(f"a message of {length} bytes")
    while len(data) < _LENGTH.size + length:
        more = connection.recv(min(1 << 20, _LENGTH.size + length - len(data)))
        if not more:
            return None, found
        data += more
    message = json.loads(data[_LENGTH.size :])
    if not isinstance(message, dict):
        raise ValueError("a message that is no object")
    return message, found
