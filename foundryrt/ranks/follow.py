"""A rank other than 0: it opens the bundle and does what rank 0 says, until that one ends."""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from foundryrt.peek import on_device

if TYPE_CHECKING:
    from foundryrt.backend import RankBackend
    from foundryrt.bundle.schema import Manifest
    from foundryrt.native.ring import Record, Ring

_DEATH_SIGNAL, _NAME = 1, 15
"""PR_SET_PDEATHSIG and PR_SET_NAME of prctl."""
_TO_LISTEN = 60.0
"""Seconds in which the rank 0 that has started this process listens."""
_ALIVE_S = 1.0
"""Seconds between two words that this rank runs."""
_IDLE_MS = 500
Said = tuple[dict[str, Any], list[int]]


def begin(given: dict[str, str], bundle: str) -> NoReturn:
    """Follow the rank 0 that has started this process, with these options (`spawn`)."""
    system = ctypes.CDLL(None)
    if parent := int(given.get("parent", 0)):
        system.prctl(_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)  # it has ended before
    rank, world, device = (int(given[name]) for name in ("rank", "world", "device"))
    system.prctl(_NAME, f"foundry-rank-{rank}".encode())  # for ps and top
    follow(bundle, rank, world, device, given["meeting"], _TO_LISTEN, quiet=True)


def follow(
    path: str, rank: int, world: int, device: int, meeting: str, seconds: float, quiet: bool
) -> NoReturn:
    """Take part as this rank until rank 0 ends the session; the process ends then.

    Rank 0 is waited for as many seconds. `quiet` where it has started this process, and says itself
    what went wrong.
    """
    from foundryrt.errors import FoundryError
    from foundryrt.ranks.meeting import connect
    from foundryrt.timeline import mark

    _import(path)
    mark("imports")
    try:
        connection = connect(meeting, seconds)
    except FoundryError as error:
        _end(f"rank {rank}: {error}", quiet)
    mark("connected")
    # Whoever ends all ranks ends rank 0, which may have answers to complete.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    line = _Line(connection, rank, quiet)
    try:
        _take_part(line, path, rank, world, device)
    except FoundryError as error:
        line.fail(str(error))
    except BaseException as error:
        traceback.print_exc()
        line.fail(f"{type(error).__name__}: {error}")
    os._exit(0)


class _Line:
    """The connection to rank 0; this process ends with it."""

    def __init__(self, connection: socket.socket, rank: int, quiet: bool) -> None:
        self._connection, self._rank, self._quiet = connection, rank, quiet
        self._said: queue.SimpleQueue[Said] = queue.SimpleQueue()

    def open(self, hello: dict[str, Any]) -> None:
        self._say(hello)
        threading.Thread(target=self._read, name="foundry-rank-0", daemon=True).start()
        threading.Thread(target=self._say_that_it_runs, name="foundry-alive", daemon=True).start()

    def next(self) -> Said:
        """What rank 0 says next, with its files."""
        return self._said.get()

    def reached(self, stage: str, *files: int, **more: Any) -> None:
        self._say({"stage": stage, **more}, *files)

    def fail(self, why: str) -> NoReturn:
        """Say why this rank ends, and end: on a GPU exchanges may go on that nobody completes."""
        self._end_with(why, {"failed": why[:4000], "rank": self._rank})

    def miss(self, rank: int) -> NoReturn:
        """As `fail`: another rank did not answer, which hangs, then, and not this one."""
        from foundryrt.bundle.ranks import BOUND_MS

        why = f"rank {rank} did not answer within {BOUND_MS // 1000} s"
        self._end_with(why, {"missing": rank})

    def _end_with(self, why: str, last: dict[str, Any]) -> NoReturn:
        from foundryrt.ranks.meeting import send

        with suppress(OSError):
            send(self._connection, last)
        _end(f"rank {self._rank}: {why}", self._quiet)

    def _say_that_it_runs(self) -> None:
        from foundryrt.ranks.meeting import ALIVE

        while True:
            time.sleep(_ALIVE_S)
            self._say(ALIVE)

    def _say(self, message: dict[str, Any], *files: int) -> None:
        from foundryrt.ranks.meeting import send

        try:
            send(self._connection, message, files)
        except ConnectionError:
            self._end_alone()

    def _end_alone(self) -> NoReturn:
        _end(f"rank {self._rank}: rank 0 has ended", self._quiet)

    def _read(self) -> None:
        from foundryrt.ranks.meeting import receive

        while True:
            try:
                message, files = receive(self._connection)
            except (OSError, ValueError):
                message, files = None, []
            if message is None:
                self._end_alone()
            if "refused" in message:
                _end(message["refused"], self._quiet)
            self._said.put((message, files))


def _end(why: str, quiet: bool) -> NoReturn:
    if not quiet:
        from foundryrt.console import note  # which takes long to import

        note(f"error: {why}")
    os._exit(1)


def _import(path: str) -> None:
    """What taking part imports: while the driver starts, and while rank 0 imports the same."""
    for name in ("backend", "native.ring", "ranks.device", "remote.bundle"):
        import_module(f"foundryrt.{name}")
    if on_device(path):
        _import_cuda()


def _import_cuda() -> None:
    for name in ("backend", "readback"):
        import_module(f"foundryrt.cuda.{name}")


def _take_part(line: _Line, path: str, rank: int, world: int, device: int) -> None:
    from foundryrt.backend import open_backend
    from foundryrt.native.ring import Ring
    from foundryrt.ranks.device import hello, prepare
    from foundryrt.remote.bundle import open_bundle
    from foundryrt.timeline import mark, steps

    bundle = open_bundle(path)
    if bundle.manifest.target == "cuda":
        _import_cuda()  # what the first bytes of a file do not tell
    line.open(hello(bundle, rank, world, device).message())
    mark("hello")
    order, _ = line.next()
    weights = None if order["weights"] is None else Path(order["weights"])
    first = order["first"]
    backend = open_backend(
        bundle, weights, device, first, False, None, None, rank=rank, shared=True
    )
    line.reached("slab", backend.export_slab())
    message, (file, *slabs) = line.next()
    ring = Ring(file, world - 1)
    others = dict(zip(message["slabs"], slabs, strict=True))
    os.close(others.pop(rank))
    backend.join(others)
    for slab in others.values():
        os.close(slab)
    prepare(backend, bundle, first)
    line.reached("ready", timeline=[*steps().items(), *backend.timeline])
    _Follower(backend, bundle.manifest, line).run(ring, rank - 1)
    backend.close()


class _Follower:
    """Does what records say."""

    def __init__(self, backend: RankBackend, manifest: Manifest, line: _Line) -> None:
        from foundryrt.bundle.ranks import words_tensor
        from foundryrt.ranks.records import Kind

        self._backend, self._manifest, self._line = backend, manifest, line
        words = words_tensor(manifest)
        assert words is not None
        self._words = backend.readback(words)
        self._unchecked = False
        """Whether there were launches since it was seen that all ranks have answered."""
        self._parts: dict[int, bytearray] = {}
        self._waiting: threading.Thread | None = None
        self._calls: dict[int, Callable[[Record], object]] = {
            Kind.LAUNCH: self._launch,
            Kind.WRITE: self._write,
            Kind.SEED: lambda record: backend.seed(record.value),
            Kind.LOAD_WEIGHTS: self._load_weights,
            Kind.WAIT: self._wait,
        }
        self._close = Kind.CLOSE

    def run(self, ring: Ring, reader: int) -> None:
        """Until a record says that the session is closed."""
        while True:
            record = ring.take(reader, _IDLE_MS)
            if record is None:
                self._check_words()
                continue
            if record.kind == self._close:
                return
            self._calls[record.kind](record)
            ring.done(reader)

    def _launch(self, record: Record) -> None:
        self._backend.launch(record.index)
        self._unchecked = True
        if not self._words.overlaps:
            self._check_words()

    def _write(self, record: Record) -> None:
        import numpy as np

        tensor = self._manifest.tensors[record.index]
        like = self._backend.tensor(tensor)
        total = prod(like.shape) * like.dtype.itemsize
        data: Any = record.data
        if len(data) < total:
            parts = self._parts.setdefault(record.index, bytearray(total))
            parts[record.value : record.value + len(data)] = data
            if record.value + len(data) < total:
                return
            data = self._parts.pop(record.index)
        self._backend.write(tensor, np.frombuffer(data, like.dtype).reshape(like.shape))

    def _load_weights(self, record: Record) -> None:
        from foundryrt.weight_files import unpacked

        check = bool(record.value)
        self._backend.load_weights(check, unpacked(record.data) if check else None)

    def _wait(self, _: Record) -> None:
        if self._waiting is None:
            self._waiting = threading.Thread(target=self._wait_for_graphs, daemon=True)
            self._waiting.start()

    def _wait_for_graphs(self) -> None:
        try:
            self._backend.wait()
            self._line.reached("waited")
        except Exception as error:
            self._line.fail(str(error))

    def _check_words(self) -> None:
        """End where a rank did not answer; on cuda this waits for what is queued."""
        from foundryrt.bundle.ranks import MISSING

        if self._unchecked:
            self._unchecked = False
            self._words.start()
            if missing := int(self._words.wait()[MISSING]):
                self._line.miss(missing - 1)
