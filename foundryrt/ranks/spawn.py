"""Starts the processes of the other ranks; imports little, as each rank's driver starts in one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

TYPE_CHECKING = False  # type checkers know it as True; importing typing would delay the driver
if TYPE_CHECKING:
    from collections.abc import Sequence

Processes = dict[int, "subprocess.Popen[bytes] | Fork"]


class Fork:
    """A process that was forked from this one; as subprocess.Popen, of which it has a part."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._asking = threading.Lock()

    def poll(self) -> int | None:
        with self._asking:
            if self.returncode is None:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
                if ended:
                    self.returncode = os.waitstatus_to_exitcode(status)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            time.sleep(0.005)
        return code

    def kill(self) -> None:
        with self._asking:
            if self.returncode is None:  # else the number may be another process's
                os.kill(self.pid, signal.SIGKILL)


class Spawned:
    """Ranks 1 to N - 1 as processes, by rank, which look for rank 0 at `meeting`.

    `devices`: the GPU of each rank, rank 0's first.
    """

    def __init__(self, devices: Sequence[int]) -> None:
        self.devices = tuple(devices)
        self.meeting = f"foundryrt-{os.urandom(12).hex()}"
        self.processes: Processes = {}

    def end(self) -> None:
        """Kill them; only before rank 0 has met them."""
        for process in self.processes.values():
            process.kill()
            process.wait()


def spawn(
    bundle: str | os.PathLike[str],
    world: int,
    devices: Sequence[int] | None = None,
    fork: bool = False,
) -> Spawned:
    """Start a process for each rank but this one's, on the GPUs `devices` or 0 to `world` - 1.

    UsageError for numbers that do not fit each other. Where this is the main thread they end with
    this process. With `fork` they are forks of it, unless it has other threads: they begin at once,
    without Python's start. No driver may have been started here.
    """
    if not 2 <= world <= 64:
        _refuse(f"{world} ranks: 2 to 64 can run a bundle together")
    devices = range(world) if devices is None else devices
    if len(devices) != world:
        _refuse(f"{len(devices)} devices for {world} ranks: name one for each")
    spawned = Spawned(devices)
    begin = _forked if fork and len(os.listdir("/proc/self/task")) == 1 else _process
    try:
        for rank in range(1, world):
            words = _words(bundle, rank, world, devices[rank], spawned.meeting)
            try:
                spawned.processes[rank] = begin(words)
            except OSError as error:
                from foundryrt.errors import FoundryError

                raise FoundryError(f"rank {rank} cannot be started: {error.strerror}") from error
    except BaseException:
        spawned.end()
        raise
    return spawned


def _words(
    bundle: str | os.PathLike[str], rank: int, world: int, device: int, meeting: str
) -> list[str]:
    """What `foundryrt.ranks.begin` is given."""
    words = [f"--rank={rank}", f"--world={world}", f"--device={device}", f"--meeting={meeting}"]
    if threading.current_thread() is threading.main_thread():
        # The system counts the thread that starts a process as its parent.
        words.append(f"--parent={os.getpid()}")
    return [*words, os.fspath(bundle)]


def _process(words: list[str]) -> subprocess.Popen[bytes]:
    # A terminal's Ctrl-C is for this process, which ends the others.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "foundryrt.ranks.begin", *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0,
    )  # fmt: skip


def _forked(words: list[str]) -> Fork:
    """As `_process`, in a fork of this process."""
    if pid := os.fork():
        return Fork(pid)
    try:
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        for file in map(int, os.listdir("/proc/self/fd")):
            if file > 2:
                with suppress(OSError):  # the one of the list itself
                    os.close(file)
        from foundryrt.ranks.begin import main

        main(words)
    except KeyboardInterrupt:
        pass  # of the terminal, for all its processes
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def _refuse(why: str) -> None:
    from foundryrt.errors import UsageError

    raise UsageError(why)
