"""Frames from senders: the header, ZeroMQ, shared memory, and what goes wrong between the two."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundryrt.errors import FoundryError, UsageError
from otfs_pipeline import send
from otfs_pipeline.frames import shared, wire, zeromq
from otfs_pipeline.frames.samples import DATATYPES, decode, encode, width
from otfs_pipeline.frames.source import Frame
from otfs_pipeline.link import transmit
from otfs_pipeline.settings import Settings

zmq = pytest.importorskip("zmq")
LINK = Settings(grid="64x32")
INTEGERS = st.integers(0, 2**63 - 1)


@given(
    INTEGERS, st.sampled_from(["", *wire.FORMATS]), INTEGERS, st.integers(-1, 2**63 - 1), INTEGERS
)
def test_headers_come_back(sequence, datatype, samples, seed, index) -> None:
    header = wire.Header(sequence, datatype, samples, seed, index)
    assert wire.unpack(header.pack()) == header


@given(st.binary(max_size=80))
def test_other_bytes_are_no_header(data: bytes) -> None:
    assert wire.unpack(data) is None or data[:4] == b"OTFS"


@pytest.mark.parametrize("position", [0, 4, 5])
def test_a_header_of_another_kind_is_refused(position: int) -> None:
    data = bytearray(wire.Header(0, "cf32_le").pack())
    data[position] = 77
    assert wire.unpack(data) is None
    assert wire.unpack(bytes(data[:-1])) is None


def test_gaps_are_counted() -> None:
    counts = wire.Counts()
    for sequence in (0, 1, 4, 5, 0, 1, 3):
        counts.arrived(sequence)
    assert counts.lost == 3


@pytest.mark.parametrize("datatype", DATATYPES)
def test_samples_come_back(datatype: str) -> None:
    rng = np.random.default_rng(1)
    samples = (rng.uniform(-1, 1, 50) + 1j * rng.uniform(-1, 1, 50)).astype(np.complex64)
    data = encode(samples, datatype)
    np.testing.assert_allclose(
        decode(data, datatype), samples, atol=1e-4 if width(datatype) > 2 else 0.01
    )
    assert decode(data[:-1], datatype).size == 49
    assert np.abs(decode(encode(9 * samples, "ci16_le"), "ci16_le").view(np.float32)).max() == 1


def collect(receive: Callable[..., Any], place: str, counts: wire.Counts, **given: Any):
    """Frames of `place`, taken in a thread; `join` gives them."""
    frames: list[Frame] = []
    stop = given.pop("stop", threading.Event())

    def run() -> None:
        with contextlib.suppress(FoundryError):
            frames.extend(receive(place, LINK, counts, given.get("idle", 5.0), stop))

    thread = threading.Thread(target=run)
    thread.start()
    return frames, thread


@pytest.mark.parametrize("datatype", wire.FORMATS)
@pytest.mark.parametrize("kind", ["zmq", "shm"])
def test_what_a_sender_plays_arrives(kind: str, datatype: str, tmp_path: Path, capsys) -> None:
    place = f"ipc://{tmp_path}/link" if kind == "zmq" else str(tmp_path / "ring")
    counts = wire.Counts()
    frames, thread = collect((zeromq if kind == "zmq" else shared).receive, place, counts)
    arguments = [f"--{kind}", place, "--grid", LINK.grid, "--frames", "7", "--pool", "3"]
    arguments += ["--slots", "4"] if kind == "shm" else []
    assert send.main([*arguments, "--seed", "4", "--datatype", datatype]) == 0
    thread.join(10)
    assert not thread.is_alive() and "7 frames sent" in capsys.readouterr().out
    assert len(frames) == 7 and (counts.lost, counts.malformed) == (0, 0)
    for index, frame in enumerate(frames):
        assert frame.samples.shape == (LINK.q,) and frame.ready > 0
        np.testing.assert_array_equal(frame.bits, transmit.payload(4, index % 3, LINK))
    np.testing.assert_array_equal(frames[0].samples, frames[3].samples)


def test_malformed_messages_are_counted_and_the_stream_goes_on(tmp_path: Path) -> None:
    endpoint, counts = f"ipc://{tmp_path}/link", wire.Counts()
    frames, thread = collect(zeromq.receive, endpoint, counts)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.connect(endpoint)
        good = wire.Header(0, "cf32_le", 2).pack()
        for message in ([b"hello"], [good], [good, b"short"], [good, bytes(16), b"more"],
                        [good, bytes(16)], [wire.Header(5, "cf32_le", 2).pack(), bytes(16)],
                        [wire.Header(6, "").pack(), b""]):  # fmt: skip
            socket.send_multipart(message)
        thread.join(10)
    assert not thread.is_alive()
    assert [f.samples.size for f in frames] == [2, 2]
    assert (counts.malformed, counts.lost) == (4, 4)


def test_a_quiet_link_ends_and_a_stopped_one_too(tmp_path: Path) -> None:
    for module, place in ((zeromq, f"ipc://{tmp_path}/a"), (shared, str(tmp_path / "none"))):
        frames, thread = collect(module.receive, place, wire.Counts(), idle=0.2)
        thread.join(5)
        assert not thread.is_alive() and not frames
        stop = threading.Event()
        _, thread = collect(module.receive, place, wire.Counts(), idle=0.0, stop=stop)
        time.sleep(0.1)
        assert thread.is_alive()
        stop.set()
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize("linked", [False, True])
def test_a_sender_that_does_not_wait_overwrites_and_the_reader_counts(
    linked: bool, tmp_path: Path
) -> None:
    path, counts = str(tmp_path / "ring"), wire.Counts()
    if linked:
        Path(path).symlink_to(tmp_path / "elsewhere")
    stop = threading.Event()
    started = threading.Thread(
        target=lambda: senders.append(shared.Sender(path, 80, 4, False, 5.0))
    )
    senders: list[shared.Sender] = []
    started.start()
    source = shared.receive(path, LINK, counts, 5.0, stop)
    data = encode(np.ones(10, np.complex64), "cf32_le")

    def play(first: int, count: int) -> None:
        for sequence in range(first, first + count):
            senders[0].send(wire.Header(sequence, "cf32_le", 10), data)

    first: list[Frame] = []
    reader = threading.Thread(target=lambda: first.append(next(source)))
    reader.start()
    started.join(5)
    play(0, 1)
    reader.join(5)
    play(1, 20)
    senders[0].finish(21)
    assert Path(path).is_symlink() == linked
    senders[0].close()
    assert not Path(path).exists()
    rest = list(source)
    assert len(first) == 1 and len(rest) == 4
    assert counts.lost == 16


def test_rings_and_endpoints_that_cannot_work(tmp_path: Path, capsys) -> None:
    ring = tmp_path / "ring"
    for size in (0, 8, 8192):
        ring.write_bytes(bytes(size))
        with pytest.raises(FoundryError, match="no ring of frames"):
            next(shared.receive(str(ring), LINK, wire.Counts(), 1.0, threading.Event()))
    with pytest.raises(FoundryError, match="Is a directory"):
        next(shared.receive(str(tmp_path), LINK, wire.Counts(), 1.0, threading.Event()))
    with pytest.raises(UsageError, match="ZeroMQ endpoint"):
        next(zeromq.receive("nonsense", LINK, wire.Counts(), 1.0, threading.Event()))
    with pytest.raises(FoundryError, match="no sender"):
        next(shared.receive(str(tmp_path / "x"), LINK, wire.Counts(), 0.05, threading.Event()))
    base = ["--grid", LINK.grid, "--frames", "1"]
    assert send.main([*base, "--shm", str(tmp_path / "y"), "--patience", "0.1"]) == 1
    assert send.main([*base, "--shm", str(tmp_path / "no" / "y")]) == 2
    assert send.main([*base, "--zmq", "nonsense"]) == 2
    for option in ("--pool", "--slots"):
        with pytest.raises(SystemExit, match="2"):
            send.main([*base, "--shm", str(tmp_path / "y"), option, "0"])
    (tmp_path / "empty.sigmf-data").touch()
    (tmp_path / "empty.sigmf-meta").write_text('{"global": {"core:datatype": "cf32_le"}}')
    recorded = ["--iq", str(tmp_path / "empty.sigmf-data")]
    assert send.main([*base, "--shm", str(tmp_path / "y"), *recorded]) == 1
    assert send.main([*base, "--zmq", f"ipc://{tmp_path}/z", "--patience", "0.1"]) == 1
    errors = capsys.readouterr().err
    assert "no receiver took" in errors
    assert "no receiver in 0.1 s" in errors and "No such file" in errors
    assert not (tmp_path / "y").exists()


def test_without_pyzmq_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zmq", None)
    with pytest.raises(FoundryError, match=r"pip install 'foundry-graphs\[stream\]'"):
        list(itertools.islice(
            zeromq.receive("ipc://x", LINK, wire.Counts(), 1.0, threading.Event()), 1
        ))  # fmt: skip


@pytest.mark.parametrize(
    ("option", "value"), [("--seed", str(2**63)), ("--snr", "nan"), ("--snr", "inf")]
)
@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_a_sender_refuses_what_no_header_holds(option: str, value: str, raw: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        send.main([*raw, "--zmq", "ipc://x", option, value])
