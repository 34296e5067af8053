"""Frames through shared memory: a ring in a file that both sides map, best below /dev/shm.

The file begins with a page: `OTFSRING`, then uint64 words: slots, bytes of a slot's samples,
frames written, frames read, flags (1: a reader is attached, 2: the stream has ended). Each slot has
uint64 `stamp`, the header of `wire.py` and the samples. A stamp is 2i+1 while frame i is written
and 2i+2 once it is complete, so that a reader can tell whether a frame changed while it read.
"""

from __future__ import annotations

import mmap
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from foundryrt.atomic import place, temporary_name
from foundryrt.errors import FoundryError, UsageError
from otfs_pipeline.frames import wire
from otfs_pipeline.frames.source import Frame
from otfs_pipeline.settings import Settings

_MAGIC = b"OTFSRING"
_PAGE, _PREFIX = 4096, 64
SLOTS, BYTES, WRITTEN, READ, FLAGS = range(1, 6)
_READER, _ENDED = 1, 2
_POLL = 1e-4  # seconds
_LOOK = 0.05  # seconds between two looks at the path


def _stride(size: int) -> int:
    """Bytes of a slot whose samples take `size`."""
    return -(-(_PREFIX + size) // _PREFIX) * _PREFIX


class Ring:
    """The mapped file; `word` are the words of its first page."""

    def __init__(self, path: Path) -> None:
        if platform.machine().lower() not in ("x86_64", "amd64"):
            raise FoundryError(
                "shared memory relies on x86-64's order of stores; use ZeroMQ (ipc://FILE) here"
            )
        no_ring = FoundryError(f"{path} is no ring of frames; let the sender make it")
        try:
            with path.open("r+b") as file:
                status = os.fstat(file.fileno())
                if status.st_size < _PAGE:
                    raise no_ring
                self._map = mmap.mmap(file.fileno(), 0)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise FoundryError(f"shared memory {path}: {error.strerror}") from error
        self.path, self._file = path, (status.st_dev, status.st_ino)
        self.word = np.frombuffer(self._map, np.uint64, _PAGE // 8)
        self.slots, self.size = int(self.word[SLOTS]), int(self.word[BYTES])
        self._stride = _stride(self.size)
        whole = _PAGE + self.slots * self._stride
        if self._map[:8] != _MAGIC or not self.slots or len(self._map) != whole:
            raise no_ring

    def replaced(self) -> bool:
        """Whether another ring has taken this one's name."""
        try:
            status = self.path.stat()
        except OSError:
            return False
        return (status.st_dev, status.st_ino) != self._file

    def written(self) -> int:
        """Frames written; FoundryError for a number that no sender can reach."""
        count = int(self.word[WRITTEN])
        if count >> 62:
            raise FoundryError(f"shared memory {self.path}: {count} frames written; it is damaged")
        return count

    def slot(self, index: int) -> tuple[np.ndarray, memoryview, memoryview]:
        """Stamp [1] uint64, header and samples of frame `index`'s slot."""
        start = _PAGE + index % self.slots * self._stride
        view = memoryview(self._map)[start : start + _PREFIX + self.size]
        return np.frombuffer(view[:8], np.uint64), view[8 : 8 + wire.SIZE], view[_PREFIX:]


class Sender:
    """Makes the ring. With `wait` no frame is overwritten before the reader has it."""

    def __init__(self, path: str, size: int, slots: int, wait: bool, patience: float) -> None:
        """`size` is the largest frame in bytes. FoundryError if no reader comes in time."""
        self._wait, self._written = wait, 0
        try:
            self._path = place(Path(path))
            temporary = temporary_name(self._path)
            try:
                with temporary.open("xb") as file:
                    file.write(_MAGIC + np.array([slots, size], "<u8").tobytes())
                    file.truncate(_PAGE + slots * _stride(size))
                temporary.replace(self._path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(f"shared memory {path}: {error.strerror}") from error
        self._ring = Ring(self._path)
        until = time.monotonic() + patience
        while not int(self._ring.word[FLAGS]) & _READER:
            if time.monotonic() > until:
                self._path.unlink(missing_ok=True)
                raise FoundryError(f"shared memory {path}: no receiver in {patience:g} s")
            time.sleep(0.01)

    def send(self, header: wire.Header, data: bytes) -> None:
        """UsageError for a frame larger than the ring was made for."""
        if len(data) > self._ring.size:
            raise UsageError(f"a frame of {len(data)} bytes in slots of {self._ring.size}")
        words = self._ring.word
        while self._wait and self._written - int(words[READ]) >= self._ring.slots:
            time.sleep(_POLL)
        stamp, head, samples = self._ring.slot(self._written)
        stamp[0] = 2 * self._written + 1
        head[:] = header.pack()
        np.frombuffer(samples, np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
        stamp[0] = 2 * self._written + 2
        self._written += 1
        words[WRITTEN] = self._written

    def finish(self, sequence: int) -> None:
        """Say that the stream has ended; a reader that has the ring open can finish it."""
        self._ring.word[FLAGS] |= np.uint64(_ENDED)

    def close(self) -> None:
        self._path.unlink(missing_ok=True)


def receive(
    path: str, settings: Settings, counts: wire.Counts, idle: float, stop: threading.Event
) -> Iterator[Frame]:
    """Frames until the sender ends the stream, no frame comes for `idle` seconds, or `stop`.

    What the sender overwrote before it was read counts as lost. A new sender's ring at the same
    path is read after what the old one holds.
    """
    ring = _attach(Path(path), idle, stop)
    read, quiet = 0, time.monotonic()
    looked = quiet
    while ring is not None and not stop.is_set():
        flags, written = int(ring.word[FLAGS]), ring.written()
        now = time.monotonic()
        if idle and now - quiet > idle:
            return
        if read >= written:
            if flags & _ENDED:
                return
            if now - looked > _LOOK and ring.written() == written:
                looked = now
                if ring.replaced():
                    ring, read = _attach(Path(path), idle, stop), 0
            time.sleep(_POLL)
            continue
        ready = time.perf_counter()
        read = max(read, written - ring.slots)
        frame = _take(ring, read, settings, counts, ready)
        read += 1
        ring.word[READ] = read
        if frame is not None:
            yield frame
            # After the frame was taken: a receiver that is busy makes no silence.
            quiet = time.monotonic()


def _attach(path: Path, idle: float, stop: threading.Event) -> Ring | None:
    until = time.monotonic() + idle
    while True:
        with suppress(FileNotFoundError):
            ring = Ring(path)
            break
        if stop.is_set():
            return None
        if idle and time.monotonic() > until:
            raise FoundryError(
                f"shared memory {path}: no sender made it in {idle:g} s; start "
                "python -m otfs_pipeline.send with --shm, or give a longer --idle-timeout"
            )
        time.sleep(0.01)
    ring.word[FLAGS] |= np.uint64(_READER)
    return ring


def _take(
    ring: Ring, index: int, settings: Settings, counts: wire.Counts, ready: float
) -> Frame | None:
    stamp, head, samples = ring.slot(index)
    header = wire.unpack(bytes(head))
    length = min(header.bytes, ring.size) if header else 0
    data = np.frombuffer(samples, np.uint8)[:length].copy()
    if int(stamp[0]) != 2 * index + 2:
        return None  # overwritten while it was read: the gap in the sequence counts it
    if header is None or not header.datatype or header.bytes != length:
        counts.damaged("a slot's header is not that of a frame which fits it")
        return None
    if reason := wire.uneven(header, settings):
        counts.damaged(reason)
        return None
    if not counts.arrived(header.sequence):
        return None
    return wire.frame(header, data.data, settings, ready)
