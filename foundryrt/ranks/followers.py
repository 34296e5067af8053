"""The other ranks as rank 0 sees them: processes of its own or of a launcher's, and their news."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from typing import Any

from foundryrt.bundle.ranks import BOUND_MS
from foundryrt.errors import FoundryError, RankLost, UsageError
from foundryrt.ranks.admission import Member, meet
from foundryrt.ranks.meeting import ALIVE, Hello, listen, patience, receive, send
from foundryrt.ranks.spawn import Processes, Spawned, spawn
from foundryrt.undo import Undo

_LAST_WORDS = 3.0
"""Seconds in which a rank whose connection has closed ends."""
_ORDERLY = 10.0
"""Seconds in which ranks free what they have."""
_SILENT = 10.0
"""Least seconds without a word of a rank, which says each second that it runs."""
_LOOK = 1.0
"""Seconds between two looks at which ranks are silent."""


class Followers:
    """Ranks 1 to `world` - 1, which are on their way; `Session.open` meets them.

    `devices`: each rank's GPU, this one's first. `close` ends the processes that were started here;
    others end with the connection.
    """

    def __init__(self, world: int, devices: Sequence[int], meeting: str) -> None:
        self.world = world
        self.devices = tuple(devices)
        self.lost: RankLost | None = None
        """Set once a rank has failed or ended; nothing can be launched then."""
        self.on_loss: list[Callable[[int], object]] = []
        """Called, by a thread of its own, with the rank that is lost."""
        self.timelines: dict[int, list[tuple[str, float]]] = {}
        """By rank, the steps of its start and when each was done, as `Session.timeline`."""
        self._processes: Processes = {}
        self._members: dict[int, Member] = {}
        self._said: dict[str, dict[int, list[int]]] = {}
        """By stage, the ranks that have reached it, with the files that they sent."""
        self._changed = threading.Condition()
        self._taken = self._ending = False
        self._reader: threading.Thread | None = None
        self._undo = Undo()
        self._undo.push(partial(_end, self._processes, self._members))
        self._undo.push(partial(_close, self._members))
        self._listener = listen(meeting)
        self._undo.push(self._listener.close)

    @classmethod
    def start(
        cls, bundle: str | os.PathLike[str], world: int, devices: Sequence[int] | None = None
    ) -> Followers:
        """Start a process for each rank but this one's, on the GPUs `devices` or 0 to `world` - 1.

        A rank of a host bundle has no GPU. UsageError for numbers that do not fit each other.
        """
        return cls.of(spawn(bundle, world, devices))

    @classmethod
    def of(cls, spawned: Spawned) -> Followers:
        """Of ranks whose processes have been started."""
        try:
            followers = cls(len(spawned.devices), spawned.devices, spawned.meeting)
        except BaseException:
            spawned.end()
            raise
        followers._processes.update(spawned.processes)
        return followers

    def __enter__(self) -> Followers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self) -> None:
        """Have them for a session; UsageError where one has had them, or they were closed."""
        if self._taken or self._ending:
            raise UsageError("these ranks have had their session, or are closed: start others")
        self._taken = True

    def meet(self, own: Hello) -> None:
        """Wait for all ranks; FoundryError names those that are late, and what differs at one."""
        meet(self._listener, own, self._members, self._ended)
        self._listener.close()
        reader = threading.Thread(target=self._read, name="foundry-ranks", daemon=True)
        reader.start()
        self._reader = reader  # once there is one to wait for

    def tell(self, message: dict[str, Any], files: tuple[int, ...] = ()) -> None:
        """Say something to all; who does not hear it is lost, as the next `check` says."""
        for member in self._members.values():
            with contextlib.suppress(OSError):
                send(member.connection, message, files)

    def await_all(
        self, stage: str, pending: Callable[[int], object] = lambda count: None
    ) -> dict[int, list[int]]:
        """Wait until all have said that they are at `stage`; the files that each sent with it.

        `pending` is called now and then with how many are; what it raises ends the wait. RankLost
        as for `check`.
        """
        while True:
            with self._changed:
                self.check()
                said = self._said.get(stage, {})
                if len(said) == self.world - 1:
                    return said
                self._changed.wait(0.1)
            pending(len(said))

    def check(self) -> None:
        """RankLost where a rank has failed or ended."""
        if self.lost is not None:
            raise RankLost(str(self.lost))

    def lose(self, rank: int, why: str, hangs: bool = False) -> None:
        """Have the session end: this rank is no more, or `hangs`, and is ended if it can be."""
        with self._changed:
            if self.lost is not None or self._ending:
                return
            self.lost = RankLost(f"{self.name(rank)} {why}; start all ranks again")
            self._changed.notify_all()
        if hangs and rank in self._processes:
            self._processes[rank].kill()
        for call in self.on_loss:
            # What one of them meets must not keep the others from knowing.
            with contextlib.suppress(FoundryError):
                call(rank)

    def lose_missing(self, rank: int) -> None:
        """As `lose`, of a rank that another one has waited for in an exchange."""
        self.lose(rank, f"did not answer within {BOUND_MS // 1000} s", hangs=True)

    def name(self, rank: int) -> str:
        """A rank for people, with its GPU and process."""
        member, process = self._members.get(rank), self._processes.get(rank)
        pid = member.hello.pid if member else process.pid if process else None
        parts = [f"GPU {self.devices[rank]}"] if member and member.hello.gpu else []
        parts += [f"process {pid}"] if pid and rank else []
        return f"rank {rank}" + (f" ({', '.join(parts)})" if parts else "")

    def expect_end(self) -> None:
        """From now on ranks end because they are to."""
        self._ending = True

    def close(self) -> None:
        """End the ranks, and wait for those that were started here. A second call does nothing.

        RankLost for what a session of theirs is asked after that.
        """
        orderly = self._ending and self.lost is None
        if not self._ending and self.lost is None:
            self.lost = RankLost("the other ranks were closed; close the session first")
        self._ending = True
        if orderly:
            self._wait_for_ends()
        self._undo.close()
        if self._reader is not None and self._reader is not threading.current_thread():
            self._reader.join()

    def _ended(self, rank: int) -> FoundryError | None:
        process = self._processes.get(rank)
        if process is None or (code := process.poll()) is None:
            return None
        return FoundryError(f"{self.name(rank)} {ending(code)} before it could take part")

    def _read(self) -> None:
        """Take the news of all ranks until their connections are closed."""
        ranks = {each.connection.fileno(): rank for rank, each in self._members.items()}
        bound, looked = max(_SILENT, patience()), time.monotonic()
        silent = dict.fromkeys(ranks, 0.0)
        poll = select.poll()
        for file in ranks:
            poll.register(file, select.POLLIN)
        while ranks:
            found = poll.poll(_LOOK * 1e3)
            # Not the time in which this process was stopped, and heard nobody.
            passed, looked = min(2 * _LOOK, time.monotonic() - looked), time.monotonic()
            for file, rank in ranks.items():
                silent[file] += passed
                if silent[file] > bound:
                    self.lose(rank, f"said nothing for {bound:g} s", hangs=True)
            for file, _ in found:
                rank = ranks[file]
                silent[file] = 0.0
                try:
                    message, files = receive(self._members[rank].connection)
                except (OSError, ValueError):
                    message, files = None, []
                if message == ALIVE:
                    continue
                if message is not None and "stage" in message:
                    with self._changed:
                        if steps := message.get("timeline"):
                            self.timelines[rank] = [(str(step), float(at)) for step, at in steps]
                        self._said.setdefault(str(message["stage"]), {})[rank] = files
                        self._changed.notify_all()
                    continue
                poll.unregister(file)
                del ranks[file]
                if message is not None and message.get("missing") in range(self.world):
                    self.lose_missing(message["missing"])
                elif message is not None and "failed" in message:
                    self.lose(rank, f"failed: {message['failed']}")
                elif not self._ending:
                    self.lose(rank, self._how_it_ended(rank))

    def _how_it_ended(self, rank: int) -> str:
        process = self._processes.get(rank)
        if process is None:
            return "has ended"
        try:
            return ending(process.wait(_LAST_WORDS))
        except subprocess.TimeoutExpired:
            return "has closed its connection"

    def _wait_for_ends(self) -> None:
        end = time.monotonic() + _ORDERLY
        if self._reader is not None:
            self._reader.join(_ORDERLY)
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, end - time.monotonic()))


def ending(code: int) -> str:
    """How a process ended, by its return code as subprocess gives it."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _close(members: Mapping[int, Member]) -> None:
    for member in members.values():
        with contextlib.suppress(OSError):
            member.connection.shutdown(socket.SHUT_RDWR)


def _end(processes: Processes, told: Container[int]) -> None:
    """Some have been told by their connection; the others still look for this process."""
    end = time.monotonic() + _LAST_WORDS
    for rank, process in processes.items():
        try:
            process.wait(max(0.0, end - time.monotonic()) if rank in told else 0.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
