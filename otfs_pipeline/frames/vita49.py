"""Signal data packets of VITA 49.0 and 49.2 (ANSI/VITA 49.2-2017, 5.1 and 6.1): header and place.

Words are of 32 bits, big-endian. The first holds packet type, what else is there, a packet count
modulo 16 and the packet's length in words. Context and command packets carry no samples.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_WITHOUT_STREAM, _WITH_STREAM = 0, 1
_SAMPLE_COUNT, _REAL_TIME = 1, 2  # fractional timestamps
MODULUS = 16
"""Packet counts are taken modulo this."""


@dataclass(frozen=True)
class Packet:
    """A packet of samples; `count` is modulo MODULUS.

    Where the packet says so: `index` of its first sample, or that sample's `time` in picoseconds.
    """

    stream: int
    count: int
    payload: memoryview
    index: int | None = None
    time: int | None = None


def unpack(datagram: memoryview) -> Packet | str | None:
    """A packet of samples, None for one of another kind, or why it is none of VITA 49."""
    if len(datagram) < 4:
        return f"a datagram of {len(datagram)} bytes is no VITA 49 packet"
    (word,) = struct.unpack_from(">I", datagram)
    kind, length = word >> 28, 4 * (word & 0xFFFF)
    if not 4 <= length <= len(datagram):
        return f"a VITA 49 packet of {length} bytes in a datagram of {len(datagram)}"
    if kind not in (_WITHOUT_STREAM, _WITH_STREAM):
        return None
    has_class, has_trailer = word >> 27 & 1, word >> 26 & 1
    integer, fractional = word >> 22 & 3, word >> 20 & 3
    header = 4 + 4 * kind + 8 * has_class + 4 * bool(integer) + 8 * bool(fractional)
    end = length - 4 * has_trailer
    if header > end:
        return f"a VITA 49 packet of {length} bytes is shorter than its header"
    stream = struct.unpack_from(">I", datagram, 4)[0] if kind == _WITH_STREAM else 0
    index = time = None
    if fractional == _SAMPLE_COUNT and not integer:
        # With whole seconds beside it the count begins again in each of them.
        (index,) = struct.unpack_from(">Q", datagram, header - 8)
    elif fractional == _REAL_TIME and integer:
        seconds, picoseconds = struct.unpack_from(">IQ", datagram, header - 12)
        time = seconds * 10**12 + picoseconds
    count = word >> 16 & (MODULUS - 1)
    return Packet(stream, count, datagram[header:end], index, time)


def pack(stream: int, index: int, count: int, payload: bytes) -> bytes:
    """A packet of samples, the first of which is sample `index`; zeros fill up its last word."""
    payload += bytes(-len(payload) % 4)
    words = 4 + len(payload) // 4
    word = _WITH_STREAM << 28 | _SAMPLE_COUNT << 20 | count % MODULUS << 16 | words
    return struct.pack(">IIQ", word, stream, index) + payload
