"""Frames over ZeroMQ: two-part messages, header (`wire.py`) and samples, from DEALER to ROUTER.

The receiver binds, senders connect: a sender may start first, and may be replaced. The receiver
answers the end of the stream with the same header: messages that it has not read yet would be lost
if the sender closed before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

from foundryrt.errors import FoundryError, UsageError, install
from otfs_pipeline.frames.source import Frame
from otfs_pipeline.frames.wire import Counts, Header, frame, unpack
from otfs_pipeline.settings import Settings

if TYPE_CHECKING:
    import zmq

_TICK = 100  # milliseconds
# Messages that ZeroMQ keeps for either side; beyond them the sender waits.
_HIGH_WATER = 4


def _zmq() -> ModuleType:
    try:
        import zmq
    except ImportError as error:
        raise FoundryError(
            f"ZeroMQ needs pyzmq, which is not installed: {install('stream')}"
        ) from error
    return zmq


@contextmanager
def _socket(kind: str, endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    library = _zmq()
    context = library.Context()
    socket = context.socket(getattr(library, kind))
    socket.set_hwm(_HIGH_WATER)
    try:
        try:
            socket.bind(endpoint) if kind == "ROUTER" else socket.connect(endpoint)
        except library.ZMQError as error:
            raise UsageError(
                f"ZeroMQ endpoint {endpoint!r}: {error}; use tcp://ADDRESS:PORT or ipc://FILE"
            ) from error
        yield socket
    finally:
        socket.close(linger=_TICK)
        context.term()


def receive(
    endpoint: str, settings: Settings, counts: Counts, idle: float, stop: threading.Event
) -> Iterator[Frame]:
    """Frames until the sender ends the stream, nothing comes for `idle` seconds, or `stop`."""
    with _socket("ROUTER", endpoint) as socket:
        quiet = time.monotonic()
        while not stop.is_set() and not (idle and time.monotonic() - quiet > idle):
            if not socket.poll(_TICK):
                continue
            sender, *parts = socket.recv_multipart(copy=False)
            ready, quiet = time.perf_counter(), time.monotonic()
            header = unpack(parts[0].buffer) if 1 <= len(parts) <= 2 else None
            data = parts[1].buffer if len(parts) == 2 else b""
            if header is None or len(data) != header.bytes:
                counts.malformed += 1
                continue
            if not header.datatype:
                socket.send_multipart([sender, *parts], copy=False)
                return
            counts.arrived(header.sequence)
            yield frame(header, data, settings, ready)


class Sender:
    """Sends frames to a receiver's endpoint; `send` waits while it cannot take more.

    FoundryError where no receiver takes a frame, or confirms the end, for `patience` seconds.
    """

    def __init__(self, endpoint: str, patience: float) -> None:
        self._endpoint, self._patience = endpoint, patience
        self._opened = _socket("DEALER", endpoint)
        self._socket = self._opened.__enter__()

    def send(self, header: Header, data: bytes) -> None:
        if not self._socket.poll(int(self._patience * 1e3), _zmq().POLLOUT):
            raise self._timeout()
        self._socket.send_multipart([header.pack(), data], copy=False)

    def finish(self, sequence: int) -> None:
        """Say that the stream has ended, and wait until the receiver confirms it."""
        self.send(Header(sequence, ""), b"")
        if not self._socket.poll(int(self._patience * 1e3)):
            raise self._timeout()

    def close(self) -> None:
        self._opened.__exit__(None, None, None)

    def _timeout(self) -> FoundryError:
        return FoundryError(
            f"ZeroMQ endpoint {self._endpoint}: no receiver took what was sent in "
            f"{self._patience:g} s"
        )
