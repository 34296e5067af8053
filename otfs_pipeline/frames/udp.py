"""Samples in UDP datagrams: with a sequence number, or as VITA 49 signal data packets.

A numbered datagram begins with 8 bytes, little-endian: the datagrams that were sent before it.
Whole samples follow. Of what is lost it is known how many samples it was, so that the frames after
a loss stay in step.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from foundryrt.errors import FoundryError, UsageError
from otfs_pipeline.frames import vita49
from otfs_pipeline.frames.intake import undecoded
from otfs_pipeline.frames.samples import encode, width
from otfs_pipeline.frames.source import UNKNOWN, Frame
from otfs_pipeline.frames.wire import Counts

PACKETS = ("sequence", "vita49")
_DATATYPES = {"sequence": "cf32_le", "vita49": "ci16_be"}
_NUMBER = struct.Struct("<Q")
_DATAGRAM = 1 << 16  # bytes, at most
_BUFFER = 1 << 25  # bytes that the system keeps, where it allows as many
_TICK = 0.1  # seconds
_SOON = 1e-3  # seconds after which samples that wait are passed on
_BATCH = 1 << 14  # samples that are passed on at once
_LATE = 1 << 10  # datagrams by which one may be late; a smaller number is a sender's restart
# The payload of a datagram that no network divides, with room for VITA 49's header.
_PAYLOAD = 1440  # bytes


def datatype_of(packets: str, given: str) -> str:
    """The datatype of samples in `packets`, unless it is given."""
    return given or _DATATYPES[packets]


def address_of(text: str) -> tuple[str, int]:
    """HOST and PORT of "HOST:PORT"; UsageError for anything else."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UsageError(f"UDP address {text!r}: write ADDRESS:PORT, such as 0.0.0.0:4991")
    return host.strip("[]"), int(port)


@dataclass(frozen=True)
class _Datagram:
    """Samples with their number modulo `modulus`, and where VITA 49 places them."""

    sender: object
    number: int
    modulus: int
    samples: np.ndarray
    index: int | None = None
    time: int | None = None


def receive(
    address: str,
    packets: str,
    datatype: str,
    rate: float,
    counts: Counts,
    idle: float,
    stop: threading.Event,
) -> Iterator[Frame]:
    """Samples in pieces, until none comes for `idle` seconds, or `stop`.

    Lost datagrams are counted, and their samples in `counts.missing`, before the piece that follows
    them is given. A datagram that comes late counts as malformed: zeros are in its place already.
    """
    waiting: list[np.ndarray] = []
    last: _Datagram | None = None
    with _bound(address) as opened:
        arrived = ready = time.monotonic()
        while not stop.is_set() and not (idle and time.monotonic() - arrived > idle):
            opened.settimeout(_SOON if waiting else _TICK)
            found = _next(opened, packets, datatype, counts)
            if isinstance(found, _Datagram) and _accepted(found, last, arrived, counts):
                lost, missing = _gap(found, last, rate)
                if lost or missing:
                    if waiting:
                        yield Frame(np.concatenate(waiting), UNKNOWN, ready)
                    waiting = []
                    counts.lost, counts.missing = counts.lost + lost, counts.missing + missing
                last, arrived, ready = found, time.monotonic(), time.perf_counter()
                waiting.append(found.samples)
            full = sum(map(len, waiting)) >= _BATCH
            if waiting and (full or found is None):
                yield Frame(np.concatenate(waiting), UNKNOWN, ready)
                waiting, arrived = [], time.monotonic()
    if waiting:
        yield Frame(np.concatenate(waiting), UNKNOWN, ready)


def _bound(address: str) -> socket.socket:
    host, port = address_of(address)
    opened = None
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
        )[0]
        opened = socket.socket(family, kind, protocol)
        with suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        opened.bind(place)
    except OSError as error:
        if opened is not None:
            opened.close()
        raise UsageError(f"UDP address {address}: {error.strerror or error}") from error
    return opened


def _next(
    opened: socket.socket, packets: str, datatype: str, counts: Counts
) -> _Datagram | str | None:
    """A datagram of samples; None where none came, a word for one that holds none."""
    try:
        data, sender = opened.recvfrom(_DATAGRAM)
    except TimeoutError:
        return None
    if packets == "sequence":
        if len(data) < _NUMBER.size:
            counts.damaged(f"a datagram of {len(data)} bytes has no sequence number")
            return "malformed"
        number = _NUMBER.unpack_from(data)[0]
        samples = undecoded(memoryview(data)[_NUMBER.size :], datatype)
        return _Datagram(sender, number, 1 << 64, samples)
    packet = vita49.unpack(memoryview(data))
    if packet is None:
        return "no samples"
    if isinstance(packet, str):
        counts.damaged(packet)
        return "malformed"
    # Payloads are filled up to whole words.
    samples = undecoded(packet.payload, datatype)
    source = sender, packet.stream
    return _Datagram(source, packet.count, vita49.MODULUS, samples, packet.index, packet.time)


def _accepted(found: _Datagram, last: _Datagram | None, arrived: float, counts: Counts) -> bool:
    """Whether a datagram continues the stream: it is of the same sender, and not late."""
    if last is None:
        return True
    if found.sender != last.sender:
        if time.monotonic() - arrived < 10 * _TICK:
            counts.damaged("two senders, or two streams, come to one address")
            return False
        return True
    behind = (last.number - found.number) % found.modulus
    late = found.modulus > 2 * _LATE and behind < _LATE
    if found.index is not None and last.index is not None:
        late = 0 <= last.index - found.index < _LATE * max(len(found.samples), 1)
    if late:
        counts.damaged("a datagram came twice, or after later ones")
        return False
    return True


def _gap(found: _Datagram, last: _Datagram | None, rate: float) -> tuple[int, int]:
    """Datagrams and samples that are missing before this one."""
    if last is None or found.sender != last.sender:
        return 0, 0
    lost, size = (found.number - last.number - 1) % found.modulus, len(last.samples)
    if found.modulus > 2 * _LATE and lost > found.modulus // 2:
        return 0, 0  # the sender has begun again
    missing = lost * size
    if found.index is not None and last.index is not None:
        missing = max(found.index - last.index - size, 0)
    elif found.time is not None and last.time is not None:
        missing = max(round((found.time - last.time) * rate / 1e12) - size, 0)
    # A count modulo 16 hides the losses of 16 datagrams.
    return max(lost, missing // size if size else 0), missing


class Sender:
    """Sends samples of `datatype` in `packets`; nothing waits for a receiver."""

    def __init__(self, address: str, packets: str, datatype: str) -> None:
        host, port = address_of(address)
        try:
            family, kind, protocol, _, place = socket.getaddrinfo(
                host, port, type=socket.SOCK_DGRAM
            )[0]
            self._socket = socket.socket(family, kind, protocol)
        except OSError as error:
            raise UsageError(f"UDP address {address}: {error.strerror or error}") from error
        self._address, self._place = address, place
        self._packets, self._datatype = packets, datatype
        self._number = self._index = 0

    def send(self, samples: np.ndarray, gain: float = 1.0) -> None:
        """Any number of samples, in as many datagrams as they need."""
        # VITA 49 counts in words: of 8-bit samples an even number.
        each = _PAYLOAD // width(self._datatype) & ~1
        for begin in range(0, samples.size, each):
            piece = samples[begin : begin + each]
            payload = encode(piece, self._datatype, gain)
            if self._packets == "vita49":
                data = vita49.pack(1, self._index, self._number, payload)
            else:
                data = _NUMBER.pack(self._number) + payload
            try:
                self._socket.sendto(data, self._place)
            except OSError as error:
                raise FoundryError(
                    f"UDP address {self._address}: {error.strerror or error}"
                ) from error
            self._number, self._index = self._number + 1, self._index + piece.size

    def close(self) -> None:
        """Free the socket."""
        self._socket.close()
