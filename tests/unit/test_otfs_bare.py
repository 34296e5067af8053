"""Bare samples over ZeroMQ, replaced rings, numbers and options that would lose something."""

from __future__ import annotations

import itertools
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundryrt.errors import FoundryError, UsageError
from foundryrt.host.backend import _threads
from otfs_pipeline import run, send
from otfs_pipeline.frames import shared, wire, zeromq
from otfs_pipeline.frames.source import Frame
from otfs_pipeline.settings import Settings
from tests.unit.test_otfs_source import ReferenceSession

zmq = pytest.importorskip("zmq")
LINK = Settings(grid="64x32")
KINDS = {"pub": "PUB", "push": "PUSH", "dealer": "DEALER"}


class Receiver:
    """Takes frames in a thread; `finish` waits for the end."""

    def __init__(self, frames: Iterator[Frame]) -> None:
        self.frames: list[Frame] = []
        self._source = frames
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.frames.extend(self._source)

    def finish(self) -> list[Frame]:
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.frames


@pytest.fixture
def context() -> Iterator[Any]:
    with zmq.Context() as made:
        yield made


def bare(endpoint: str, kind: str, counts: wire.Counts, idle: float = 0.4) -> Receiver:
    stop = threading.Event()
    return Receiver(zeromq.receive_bare(endpoint, kind, LINK, counts, idle, stop))


def played(context: Any, kind: str, tmp_path: Path, messages: list[Any]) -> tuple[Any, wire.Counts]:
    """What arrives of `messages` from a socket of `kind`: a message is its part or its parts."""
    counts, place = wire.Counts(), f"ipc://{tmp_path}/bare"
    with context.socket(getattr(zmq, KINDS[kind])) as socket:
        socket.set_hwm(0)
        # GNU Radio's sinks bind; a dealer connects.
        socket.connect(place) if kind == "dealer" else socket.bind(place)
        receiver = bare(place, kind, counts, 0.6)
        time.sleep(0.3)  # a PUB drops what it sends before there is a subscriber
        for message in messages:
            socket.send_multipart(message if isinstance(message, list) else [message])
        return receiver.finish(), counts


@pytest.mark.parametrize("kind", KINDS)
def test_samples_cut_anywhere_arrive_whole(context: Any, kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    sent = rng.standard_normal(2 * (3 * LINK.q + 10)).astype("<f4").tobytes()
    cuts = [0, 0, *sorted(rng.integers(0, len(sent), 30)), len(sent)]
    pieces = [sent[a:b] for a, b in itertools.pairwise(cuts)]
    frames, counts = played(context, kind, tmp_path, pieces)
    assert [f.samples.size for f in frames] == [LINK.q] * 3 + [10]
    assert b"".join(f.samples.tobytes() for f in frames) == sent
    assert counts.malformed == 0 and frames[0].ready > 0 and not frames[0].bits.size


def test_what_is_no_bare_sample_is_counted_with_its_reason(context: Any, tmp_path: Path) -> None:
    frame = np.ones(LINK.q, "c8").tobytes()
    tagged = struct.pack("<HBQQ", 0x5FF0, 1, 4096, 0) + frame
    frames, counts = played(context, "push", tmp_path, [tagged, [b"key", frame], frame])
    assert len(frames) == 1 and counts.malformed == 2 and "pass_tags" in counts.reason


@given(st.binary(max_size=60))
def test_no_samples_are_taken_for_tags(data: bytes) -> None:
    tagged = data[:3] == struct.pack("<HB", 0x5FF0, 1)
    assert tagged or not zeromq._no_samples([zmq.Frame(data)])


def test_another_dealer_does_not_complete_a_frame(context: Any, tmp_path: Path) -> None:
    counts, place = wire.Counts(), f"ipc://{tmp_path}/bare"
    receiver = bare(place, "dealer", counts, 0.6)
    for value in (1, 2):
        with context.socket(zmq.DEALER) as socket:
            socket.connect(place)
            samples = np.full(LINK.q, value, "c8").tobytes()
            socket.send(samples[:80] if value == 1 else samples)
            time.sleep(0.1)
    frames = receiver.finish()
    assert [f.samples[0] for f in frames] == [2] and counts.malformed == 1


@pytest.mark.parametrize("taken_as", ["framed", "bare"])
def test_formats_are_not_mistaken_and_silence_is_noticed(
    context: Any, tmp_path: Path, taken_as: str
) -> None:
    """A sender of the other format never stops; the receiver ends all the same."""
    counts, place = wire.Counts(), f"ipc://{tmp_path}/link"
    if taken_as == "bare":
        receiver, message = (
            bare(place, "dealer", counts),
            [wire.Header(0, "cf32_le", 1).pack(), b""],
        )
    else:
        stop = threading.Event()
        receiver = Receiver(zeromq.receive(place, LINK, counts, 0.4, stop))
        message = [bytes(8 * LINK.q)]
    over = threading.Event()
    with context.socket(zmq.DEALER) as socket:
        socket.connect(place)

        def chatter() -> None:
            while not over.wait(0.02):
                socket.send_multipart(message)

        sender = threading.Thread(target=chatter)
        sender.start()
        frames = receiver.finish()
        over.set()
        sender.join()
        socket.close(linger=0)
    assert not frames and counts.malformed > 0
    assert ("--bare dealer" if taken_as == "framed" else "2 parts") in counts.reason


@pytest.mark.parametrize("as_bare", [False, True])
def test_a_message_of_any_size_is_not_taken(context: Any, tmp_path: Path, as_bare: bool) -> None:
    counts, place = wire.Counts(), f"ipc://{tmp_path}/link"
    if as_bare:
        receiver = bare(place, "dealer", counts)
    else:
        stop = threading.Event()
        receiver = Receiver(zeromq.receive(place, LINK, counts, 0.4, stop))
    with context.socket(zmq.DEALER) as socket:
        socket.connect(place)
        socket.send(bytes(zeromq._limit(LINK) + 1))
        assert receiver.finish() == [] and counts.malformed == 0
        socket.close(linger=0)
    assert zeromq._limit(Settings(grid="16384x32")) == 4 * 8 * 16384 * 32


@pytest.mark.parametrize("kind", ["zmq", "shm"])
def test_a_receiver_that_is_busy_makes_no_silence(context: Any, tmp_path: Path, kind: str) -> None:
    place, counts, stop = str(tmp_path / "link"), wire.Counts(), threading.Event()
    options = f"ipc://{place}" if kind == "zmq" else place
    receive = zeromq.receive if kind == "zmq" else shared.receive

    def slow() -> Iterator[Frame]:
        for frame in receive(options, LINK, counts, 0.3, stop):
            time.sleep(0.4)
            yield frame

    receiver = Receiver(slow())
    if kind == "zmq":
        with context.socket(zmq.DEALER) as socket:
            socket.connect(options)
            for sequence in range(3):
                socket.send_multipart([wire.Header(sequence, "cf32_le", 1).pack(), bytes(8)])
            assert len(receiver.finish()) == 3
    else:
        ring(Path(place), range(3))
        assert len(receiver.finish()) == 3


def test_an_endpoint_may_say_who_binds(context: Any, tmp_path: Path) -> None:
    place, counts = f"ipc://{tmp_path}/link", wire.Counts()
    receiver = bare(f"@{place}", "push", counts)
    with context.socket(zmq.PUSH) as socket:
        socket.connect(place)
        socket.send(bytes(8 * LINK.q))
        assert len(receiver.finish()) == 1


def ring(path: Path, frames: range, ready: threading.Event | None = None) -> shared.Sender:
    sender = shared.Sender(str(path), 80, 64, True, 5.0)
    for sequence in frames:
        value = np.full(10, sequence, "c8")
        sender.send(wire.Header(sequence, "cf32_le", 10), value.tobytes())
    return sender


def test_a_replaced_ring_is_read_after_the_old_one(tmp_path: Path) -> None:
    path, counts = tmp_path / "ring", wire.Counts()
    receiver = Receiver(shared.receive(str(path), LINK, counts, 5.0, threading.Event()))
    ring(path, range(5))  # a sender that dies: it neither ends the stream nor removes the ring
    last = ring(path, range(3))
    last.finish(3)
    frames = receiver.finish()
    assert [f.samples[0].real for f in frames] == [0, 1, 2, 3, 4, 0, 1, 2]
    assert (counts.lost, counts.malformed) == (0, 0)


def test_a_ring_that_is_replaced_by_something_else_ends_with_a_message(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    source = shared.receive(str(path), LINK, wire.Counts(), 5.0, threading.Event())
    first = threading.Thread(target=lambda: next(source))
    first.start()
    ring(path, range(1))
    first.join(5)
    other = tmp_path / "other"
    other.write_bytes(bytes(9000))
    other.replace(path)
    with pytest.raises(FoundryError, match="no ring of frames"):
        next(source)


def test_a_ring_whose_count_is_damaged_ends_with_a_message(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    source = shared.receive(str(path), LINK, wire.Counts(), 5.0, threading.Event())
    first = threading.Thread(target=lambda: next(source))
    first.start()
    sender = ring(path, range(1))
    first.join(5)
    sender._ring.word[shared.WRITTEN] = 2**64 - 1
    with pytest.raises(FoundryError, match="frames written; it is damaged"):
        next(source)


@pytest.mark.parametrize("sequence", [2**64 - 1, 2**63, 2**32])
def test_an_impossible_sequence_number_is_malformed(sequence: int) -> None:
    counts = wire.Counts()
    taken = [counts.arrived(number) for number in (0, 1, sequence, 2, 4)]
    assert taken == [True, True, False, True, True]
    assert (counts.lost, counts.malformed) == (1, 1) and str(sequence) in counts.reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bits_out": "a", "llr_out": "./a"}, "--bits-out and --llr-out are one file"),
        ({"constellation": "a.png", "latency_plot": "a.png"}, "are one file"),
        ({"iq": "a.sigmf-meta", "bits_out": "a.sigmf-data"}, "--iq and --bits-out are one"),
        ({"shm": "ring", "llr_out": "ring"}, "--shm and --llr-out"),
        ({"bits_out": "folder"}, "not a regular file"),
        ({"zmq": "ipc://x", "bare": "sub"}, "use pub, push or dealer"),
        ({"bare": "pub"}, "--bare needs --zmq"),
        ({"iq": "a", "frames": 5}, "--frames is of simulated frames, .* --iq .* --max-frames ends"),
        ({"shm": "a", "snr": 5.0}, "--snr is of simulated frames, and --shm has its own"),
        ({"zmq": "ipc://a", "channel": "eva"}, "--channel is of simulated"),
        ({"iq": "a", "seed": 1, "raw": True}, "--seed is of simulated"),
        ({"iq": "a", "pool": 1}, "--pool is of simulated"),
        ({"iq": "a", "idle_timeout": 1.0}, "--idle-timeout is of a live source"),
    ],
)
def test_options_that_would_lose_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], reason: str
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=reason):
        run.Options(**changes)


def test_a_link_to_another_output_is_found(tmp_path: Path) -> None:
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(UsageError, match="one file"):
        run.Options(bits_out=str(tmp_path / "a"), llr_out=str(tmp_path / "b"))


@pytest.mark.parametrize("patience", ["nan", "inf", "-1", "x"])
def test_a_sender_waits_a_finite_time(patience: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        send.main(["--zmq", "ipc://x", "--patience", patience])


def test_threads_are_bounded_by_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    for wanted, expected in (("", 4), ("2", 2), ("9", 4), ("3,2", 3), ("0", 4), ("many", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", wanted)
        assert (_threads("9999"), _threads("1")) == (expected, 1)


def test_a_run_says_why_nothing_was_received(context: Any, tmp_path: Path) -> None:
    place = f"ipc://{tmp_path}/link"
    with context.socket(zmq.DEALER) as socket:
        socket.connect(place)
        socket.send(bytes(80))
        with pytest.raises(FoundryError, match=r"1 malformed \(.*--bare dealer"):
            options = run.Options(zmq=place, idle_timeout=0.5)
            run.run(ReferenceSession(), options, json=True)
