"""Frames over ZeroMQ: two-part messages, header (`wire.py`) and samples, from DEALER to ROUTER.

The receiver binds, senders connect: a sender may start first, and may be replaced. The receiver
answers the end of the stream with the same header: messages that it has not read yet would be lost
if the sender closed before. `receive_bare` takes samples without a header, from other programs.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from foundryrt.errors import FoundryError, UsageError, install
from otfs_pipeline.frames.samples import by_antenna, decode, width
from otfs_pipeline.frames.source import UNKNOWN, Frame
from otfs_pipeline.frames.wire import Counts, Header, frame, uneven, unpack
from otfs_pipeline.settings import Settings

if TYPE_CHECKING:
    import zmq

_TICK = 100  # milliseconds
# Messages that ZeroMQ keeps for either side; beyond them the sender waits.
_HIGH_WATER = 4
# Messages of bare samples are shorter than frames.
_BARE_HIGH_WATER = 64
_LEAST_LIMIT = 16 << 20  # bytes
# The receiver sends nothing but the end, a header, and what ZeroMQ says at the beginning.
_ANSWER_LIMIT = 1 << 12  # bytes
BARE = {"pub": "SUB", "push": "PULL", "dealer": "ROUTER"}
"""Kind of a sender's socket -> the receiver's."""
BARE_DATATYPE = "cf32_le"
"""Of bare samples where nothing else is said."""
# What GNU Radio's sinks put before the samples with `pass_tags`: magic, version, offset, tags.
_TAGS = struct.Struct("<HBQQ")
_GNU_RADIO = (0x5FF0, 1)


def _zmq() -> ModuleType:
    try:
        import zmq
    except ImportError as error:
        raise FoundryError(
            f"ZeroMQ needs pyzmq, which is not installed: {install('stream')}"
        ) from error
    return zmq


@contextmanager
def _socket(
    kind: str, endpoint: str, limit: int, waiting: int = _HIGH_WATER
) -> Iterator[zmq.Socket[bytes]]:
    """A socket that takes messages of up to `limit` bytes; ZeroMQ hangs up on longer ones.

    `@` before the endpoint binds to it, `>` connects to it; without either a ROUTER binds.
    """
    library = _zmq()
    context = library.Context()
    socket = context.socket(getattr(library, kind))
    socket.set_hwm(waiting)
    socket.setsockopt(library.MAXMSGSIZE, limit)
    if kind == "SUB":
        socket.subscribe(b"")
    binds = endpoint.startswith("@") or (kind == "ROUTER" and not endpoint.startswith(">"))
    try:
        try:
            place = endpoint.removeprefix("@") if binds else endpoint.removeprefix(">")
            socket.bind(place) if binds else socket.connect(place)
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
    """Frames until the sender ends the stream, no frame comes for `idle` seconds, or `stop`."""
    with _socket("ROUTER", endpoint, _limit(settings)) as socket:
        quiet = time.monotonic()
        while not stop.is_set() and not (idle and time.monotonic() - quiet > idle):
            if not socket.poll(_TICK):
                continue
            sender, *parts = socket.recv_multipart(copy=False)
            ready = time.perf_counter()
            header = unpack(parts[0].buffer) if 1 <= len(parts) <= 2 else None
            data = parts[1].buffer if len(parts) == 2 else b""
            if header is None:
                counts.damaged("a message has no header; for bare samples give --bare dealer")
                continue
            if len(data) != header.bytes:
                counts.damaged(f"{len(data)} bytes of samples, and the header says {header.bytes}")
                continue
            if not header.datatype:
                socket.send_multipart([sender, *parts], copy=False)
                return
            if reason := uneven(header, settings):
                counts.damaged(reason)
                continue
            if counts.arrived(header.sequence):
                yield frame(header, data, settings, ready)
                # After the frame was taken: a receiver that is busy makes no silence.
                quiet = time.monotonic()


def receive_bare(
    endpoint: str,
    kind: str,
    settings: Settings,
    counts: Counts,
    idle: float,
    stop: threading.Event,
    datatype: str = BARE_DATATYPE,
) -> Iterator[Frame]:
    """Frames of bare samples from a socket of `kind` (`BARE`) that adds nothing to them.

    The first sample that arrives begins a frame; messages may have any length. Ends when no sample
    comes for `idle` seconds, or with `stop`; samples that fill no frame are the last, short one.
    """
    antennas = settings.antennas
    whole = antennas * settings.q * width(datatype)
    gathered, filled, source = np.empty(whole, np.uint8), 0, b""
    with _socket(BARE[kind], endpoint, _limit(settings), _BARE_HIGH_WATER) as socket:
        quiet = time.monotonic()
        while not stop.is_set() and not (idle and time.monotonic() - quiet > idle):
            if not socket.poll(_TICK):
                continue
            parts = socket.recv_multipart(copy=False)
            ready = time.perf_counter()
            sender = parts.pop(0).bytes if kind == "dealer" else b""
            if reason := _no_samples(parts):
                counts.damaged(reason)
                continue
            data = parts[0].buffer
            if not data:
                continue
            if sender != source and filled:
                # The rest of this frame was with a sender that has gone.
                counts.damaged("another sender began within a frame")
                filled = 0
            source, rest = sender, np.frombuffer(data, np.uint8)
            while rest.size:
                piece = rest[: whole - filled]
                gathered[filled : filled + piece.size] = piece
                filled, rest = filled + piece.size, rest[piece.size :]
                if filled == whole:
                    samples = by_antenna(decode(gathered.data, datatype), antennas, True)
                    yield Frame(samples, UNKNOWN, ready)
                    gathered, filled = np.empty(whole, np.uint8), 0
            quiet = time.monotonic()
    if filled and not stop.is_set():
        yield Frame(decode(gathered[:filled].data, datatype), UNKNOWN, time.perf_counter())


def _no_samples(parts: list[zmq.Frame]) -> str:
    """Why a message is no bare samples; empty where it may be."""
    if len(parts) != 1:
        return f"a message of {len(parts)} parts: bare samples have neither key nor header"
    start = bytes(parts[0].buffer[: _TAGS.size])
    if len(start) == _TAGS.size:
        magic, version, offset, tags = _TAGS.unpack(start)
        # By chance one message of 2^72 begins so: the offset and the tags of a stream are small.
        if (magic, version) == _GNU_RADIO and offset < 2**48 and tags < 2**32:
            return "GNU Radio's stream tags precede the samples; set its sink's pass_tags to False"
    return ""


def _limit(settings: Settings) -> int:
    """Bytes of the longest message: frames of other settings are still counted by their length."""
    return max(_LEAST_LIMIT, 4 * settings.antennas * settings.q * width(BARE_DATATYPE))


class Sender:
    """Sends frames to a receiver's endpoint; `send` waits while it cannot take more.

    FoundryError where no receiver takes a frame, or confirms the end, for `patience` seconds.
    """

    def __init__(self, endpoint: str, patience: float) -> None:
        self._endpoint, self._patience = endpoint, patience
        self._opened = _socket("DEALER", endpoint, _ANSWER_LIMIT)
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
