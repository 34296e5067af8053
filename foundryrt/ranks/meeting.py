"""How ranks find each other and what they say: JSON in packets over a Unix socket, with files.

The socket has a name and no file (unix(7): abstract), so that a killed rank leaves nothing. Each
side asks the system for the other's user.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from dataclasses import asdict, dataclass
from typing import Any

from foundryrt import __version__
from foundryrt.errors import FoundryError, UsageError

PROTOCOL = 2
"""2 since 2026-11-30: ranks say that they run, and which other rank did not answer."""
ALIVE = {"alive": True}
"""What a rank other than 0 says each second."""
_MOST = 1 << 16
"""Bytes of a packet."""
_FILES = 65
"""That come with one: the ring, and a slab of each of up to 64 ranks."""
_CREDENTIALS = struct.Struct("<3i")  # struct ucred: process, user, group
_PATIENCE = "FOUNDRY_RANK_TIMEOUT"


@dataclass(frozen=True)
class Hello:
    """What a rank says first."""

    rank: int
    world: int
    digest: str
    """Of its bundle."""
    gpu: str
    """UUID; empty on the host."""
    visible: tuple[str, ...]
    """UUIDs of the GPUs that the process may use."""
    pid: int
    version: str = __version__
    protocol: int = PROTOCOL

    def message(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def read(cls, message: dict[str, Any]) -> Hello:
        """ValueError for what is no hello; of another protocol only `protocol` is sure."""
        if message.get("protocol") != PROTOCOL:
            raise ValueError(f"it speaks protocol {message.get('protocol')!r}, not {PROTOCOL}")
        try:
            hello = cls(**message | {"visible": tuple(message["visible"])})
        except (TypeError, KeyError) as error:
            raise ValueError("no hello") from error
        numbers = (hello.rank, hello.world, hello.pid)
        words = (hello.digest, hello.gpu, hello.version, *hello.visible)
        if {*map(type, numbers)} != {int} or {*map(type, words)} != {str}:
            raise ValueError("no hello")
        return hello


def patience() -> float:
    """Seconds for which ranks that have not come are waited for: FOUNDRY_RANK_TIMEOUT, or 120."""
    text = os.environ.get(_PATIENCE, "120")
    try:
        seconds = float(text)
        if not 0 < seconds < 1e6:
            raise ValueError
    except ValueError:
        raise UsageError(f"{_PATIENCE}={text}: give seconds, more than 0") from None
    return seconds


def listen(name: str) -> socket.socket:
    """The socket at which rank 0 is found; FoundryError where another process listens there."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(f"\0{name}")
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise FoundryError(
            f"another rank 0 of this start is listening already ({error.strerror}); start each rank"
            " once"
        ) from None
    return listener


def connect(name: str, seconds: float) -> socket.socket:
    """A connection to rank 0, which may come later; FoundryError where it does not in time."""
    end = time.monotonic() + seconds
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(f"\0{name}")
            if not is_own(connection):
                raise FoundryError("another user listens where rank 0 should; start all ranks anew")
            return connection
        except OSError:
            connection.close()
        except FoundryError:
            connection.close()
            raise
        if time.monotonic() > end:
            raise FoundryError(
                f"rank 0 did not come within {seconds:g} s; start all ranks with the same command"
            )
        time.sleep(0.02)


def is_own(connection: socket.socket) -> bool:
    """Whether the other end is a process of this user."""
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(peer)[1] == os.getuid())


def send(connection: socket.socket, message: dict[str, Any], files: tuple[int, ...] = ()) -> None:
    """Send a message, with copies of open files; OSError where nobody is there."""
    socket.send_fds(connection, [json.dumps(message).encode()], files, socket.MSG_NOSIGNAL)


def receive(connection: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """The next message and the files that came with it; None at the end.

    ValueError for what is no message, OSError as the socket has them.
    """
    data, found, _, _ = socket.recv_fds(connection, _MOST, _FILES, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None, found
    message = json.loads(data)
    if not isinstance(message, dict):
        raise ValueError("a message that is no object")
    return message, found
