"""Samples in datagrams: numbered or VITA 49, with losses, strangers and what is no packet."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundryrt.errors import FoundryError, UsageError
from otfs_pipeline.frames import udp, vita49
from otfs_pipeline.frames.raw import Raw
from otfs_pipeline.frames.source import Frame
from otfs_pipeline.frames.wire import Counts
from otfs_pipeline.settings import Settings
from otfs_pipeline.waveform.impair import Impairments
from otfs_pipeline.waveform.simulate import Simulation

LINK = Settings(grid="64x32")
RATE = 1e6


def free_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def collect(
    packets: str, put: Callable[[Callable[[bytes], None], str], None], datatype: str = "cf32_le"
) -> tuple[list[Frame], Counts]:
    """Pieces and counts of what `put` sends to an address."""
    address, counts, pieces = free_address(), Counts(), list[Frame]()

    def run() -> None:
        received = udp.receive(address, packets, datatype, RATE, counts, 0.5, threading.Event())
        pieces.extend(received)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        place = udp.address_of(address)
        put(lambda data: sender.sendto(data, place) and None, address)
        thread.join(10)
    assert not thread.is_alive()
    return pieces, counts


def samples(number: int, count: int = 10) -> bytes:
    return np.full(count, number, "<c8").tobytes()


def numbered(number: int) -> bytes:
    return struct.pack("<Q", number) + samples(number)


@given(
    st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(0, 99), st.binary(max_size=99)
)
def test_packets_come_back(stream: int, index: int, count: int, payload: bytes) -> None:
    got = vita49.unpack(memoryview(vita49.pack(stream, index, count, payload)))
    assert isinstance(got, vita49.Packet)
    assert (got.stream, got.index, got.count, got.time) == (stream, index, count % 16, None)
    assert bytes(got.payload) == payload + bytes(-len(payload) % 4)


@given(st.binary(max_size=80))
def test_other_bytes_are_refused_or_bounded(data: bytes) -> None:
    got = vita49.unpack(memoryview(data))
    assert got is None or isinstance(got, str) or len(got.payload) < len(data)


def test_header_fields_of_the_standard() -> None:
    # With stream, class, trailer, UTC seconds and picoseconds; two samples of ci16.
    word = 1 << 28 | 1 << 27 | 1 << 26 | 1 << 22 | 2 << 20 | 7 << 16 | 10
    data = struct.pack(">IIQIQ", word, 0xABCD, 5, 1_700_000_000, 250) + b"payload." + b"TRLR"
    got = vita49.unpack(memoryview(data))
    assert isinstance(got, vita49.Packet) and got.stream == 0xABCD and got.count == 7
    assert got.time == 1_700_000_000 * 10**12 + 250 and got.index is None
    assert bytes(got.payload) == b"payload."
    assert vita49.unpack(memoryview(struct.pack(">II", 4 << 28 | 2, 1))) is None  # context
    assert "shorter than its header" in str(
        vita49.unpack(memoryview(struct.pack(">II", word & ~0xFFFF | 2, 1)))
    )


def test_numbered_datagrams_with_a_gap_a_straggler_and_a_stranger() -> None:
    def put(send: Callable[[bytes], None], address: str) -> None:
        for number in (7, 8, 9, 12, 10, 13, 13):
            send(numbered(number))
            time.sleep(0.005)
        send(b"short")
        time.sleep(0.005)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(numbered(99), udp.address_of(address))
        time.sleep(0.02)
        send(numbered(14))

    pieces, counts = collect("sequence", put)
    got = np.concatenate([piece.samples for piece in pieces]).real
    assert got.tolist() == [n for n in (7, 8, 9, 12, 13, 14) for _ in range(10)]
    assert (counts.lost, counts.missing, counts.malformed) == (2, 20, 4)


def test_a_sender_that_begins_again_leaves_no_gap() -> None:
    def put(send: Callable[[bytes], None], _: str) -> None:
        for number in (5000, 5001, 0, 1):
            send(numbered(number))
            time.sleep(0.005)

    pieces, counts = collect("sequence", put)
    assert sum(piece.samples.size for piece in pieces) == 40
    assert (counts.lost, counts.malformed) == (0, 0)


def test_a_late_vita_packet_is_known_by_its_sample_count() -> None:
    def put(send: Callable[[bytes], None], _: str) -> None:
        for number in (0, 2, 1, 3):
            send(vita49.pack(1, 10 * number, number, samples(number)))
            time.sleep(0.005)

    pieces, counts = collect("vita49", put)
    got = np.concatenate([piece.samples for piece in pieces]).real
    assert got.tolist() == [n for n in (0, 2, 3) for _ in range(10)]
    assert (counts.lost, counts.missing, counts.malformed) == (1, 10, 1)


def test_vita_packets_say_how_much_is_lost() -> None:
    """By packet count alone, by sample count, and by time in picoseconds."""
    payload = np.arange(8, dtype=">i2").tobytes()

    def packet(fractional: int, count: int, place: int) -> bytes:
        integer = fractional == 2
        word = 1 << 28 | int(integer) << 22 | fractional << 20 | count % 16 << 16
        stamp = struct.pack(">I", place // 10**6) if integer else b""
        if fractional:
            within = place % 10**6 * 10**6 if integer else place
            stamp += struct.pack(">Q", within)
        length = (8 + len(stamp) + len(payload)) // 4
        return struct.pack(">II", word | length, 1) + stamp + payload

    for fractional, expected in ((0, (3, 12)), (1, (16, 64)), (2, (16, 64))):

        def put(send: Callable[[bytes], None], _: str, fractional: int = fractional) -> None:
            # Four samples each, a microsecond apart; sixteen, or by count alone three, are lost.
            for number in (0, 1, 5) if not fractional else (0, 1, 18):
                send(packet(fractional, number, 4 * number + 999_990))
                time.sleep(0.005)

        _, counts = collect("vita49", put, "ci16_be")
        assert (counts.lost, counts.missing) == expected, fractional


@pytest.mark.parametrize("packets", udp.PACKETS)
@pytest.mark.parametrize("lost", [0, 360])
def test_a_waveform_through_datagrams(packets: str, lost: int) -> None:
    made = Simulation(LINK, 1, impairments=Impairments(snr_db=25.0))
    stream = np.concatenate(list(made.pieces(range(3))))
    address, counts, raw = free_address(), Counts(), Raw(LINK, 0.0)
    found: list[Frame] = []

    def run() -> None:
        stop = threading.Event()
        pieces = udp.receive(address, packets, "ci16_le", RATE, counts, 0.5, stop)
        found.extend(raw.frames(pieces, counts))

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.1)
    sender = udp.Sender(address, packets, "ci16_le")
    sender.send(stream[:10_080], 0.05)
    # A datagram in the middle of the second frame gets lost.
    sender._number, sender._index = sender._number + lost // 360, sender._index + lost
    sender.send(stream[10_080 + lost :], 0.05)
    sender.close()
    thread.join(10)
    assert not thread.is_alive() and len(found) == 3 - bool(lost)
    assert (counts.lost, counts.missing, counts.malformed) == (bool(lost), lost, 0)
    report = raw.report()
    assert (report["locks"], report["jumps"], report["damaged"]) == (1, 0, bool(lost))


@pytest.mark.parametrize("text", ["", "4991", ":4991", "host:", "host:0", "host:65536", "a:b"])
def test_addresses(text: str) -> None:
    with pytest.raises(UsageError, match="ADDRESS:PORT"):
        udp.address_of(text)


def test_an_address_that_is_taken() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        received = udp.receive(address, "sequence", "ci8", RATE, Counts(), 1.0, threading.Event())
        with pytest.raises(UsageError, match="UDP address"):
            next(received)


def test_an_address_that_cannot_be_sent_to() -> None:
    """A broadcast, which a socket must be allowed."""
    sender = udp.Sender("255.255.255.255:4991", "sequence", "ci8")
    with pytest.raises(FoundryError, match=r"UDP address 255\.255\.255\.255:4991: Permission"):
        sender.send(np.zeros(10, np.complex64))
    sender.close()
