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
    from typing import NoReturn

Processes = dict[int, "subprocess.Popen[bytes] | Fork"]


class Fork:
    """A process that was forked from this one, with what is used here of subprocess.Popen."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._asking = threading.RLock()

    def poll(self) -> int | None:
        with self._asking:
            if self.returncode is None:
                try:
                    ended, status = os.waitpid(self.pid, os.WNOHANG)
                except ChildProcessError:  # somebody else in this process has asked
                    ended, status = self.pid, 0
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
        with self._asking, suppress(ProcessLookupError):
            if self.poll() is None:  # else the number may be another process's
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
    this process. With `fork`, for a command's main thread, they are forks of this process, which
    begin at once, without Python's start, unless it has other threads or a driver.
    """
    if not 2 <= world <= 64:
        _refuse(f"{world} ranks: 2 to 64 can run a bundle together")
    devices = range(world) if devices is None else devices
    if len(devices) != world:
        _refuse(f"{len(devices)} devices for {world} ranks: name one for each")
    spawned = Spawned(devices)
    if fork:
        # Where the caller has left it ignored, the system would not keep how a rank ended.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    begin = _forked if fork and _can_be_forked() else _process
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


def _can_be_forked() -> bool:
    """Whether this process has one thread, and no driver: what a fork has of one does not work."""
    try:
        with open("/proc/self/maps", "rb") as file:
            driver = b"/libcuda.so" in file.read()
        return not driver and len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False  # some sandboxes have no /proc


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
    # What a signal has Python do here, such as ending the other ranks, is not for the fork to do.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        return Fork(pid) if pid else _become(words, before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _become(words: list[str], mask: set[int | signal.Signals]) -> NoReturn:
    """Be a rank, in a fork that keeps nothing of its command's but stderr, until the rank ends."""
    try:
        # A terminal's Ctrl-C may come before the fork has a group of its own.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        for file in map(int, os.listdir("/proc/self/fd")):
            if file > 2:
                with suppress(OSError):  # the one of the list itself
                    os.close(file)
        from foundryrt.ranks.begin import main

        main(words)
    except SystemExit:
        pass
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def _refuse(why: str) -> None:
    from foundryrt.errors import UsageError

    raise UsageError(why)
