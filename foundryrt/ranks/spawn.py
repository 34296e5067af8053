"""Starts the processes of the other ranks; imports little, as each rank's driver starts in one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

TYPE_CHECKING = False  # type checkers know it as True; importing typing would delay the driver
if TYPE_CHECKING:
    from collections.abc import Sequence

Processes = dict[int, "subprocess.Popen[bytes]"]


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
    bundle: str | os.PathLike[str], world: int, devices: Sequence[int] | None = None
) -> Spawned:
    """Start a process for each rank but this one's, on the GPUs `devices` or 0 to `world` - 1.

    UsageError for numbers that do not fit each other. Where this is the main thread they end with
    this process.
    """
    if not 2 <= world <= 64:
        _refuse(f"{world} ranks: 2 to 64 can run a bundle together")
    devices = range(world) if devices is None else devices
    if len(devices) != world:
        _refuse(f"{len(devices)} devices for {world} ranks: name one for each")
    spawned = Spawned(devices)
    try:
        for rank in range(1, world):
            spawned.processes[rank] = _process(bundle, rank, world, devices[rank], spawned.meeting)
    except BaseException:
        spawned.end()
        raise
    return spawned


def _process(
    bundle: str | os.PathLike[str], rank: int, world: int, device: int, meeting: str
) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-P", "-m", "foundryrt.ranks.begin", f"--rank={rank}", f"--world={world}",
        f"--device={device}", f"--meeting={meeting}",
    ]  # fmt: skip
    if threading.current_thread() is threading.main_thread():
        # The system counts the thread that starts a process as its parent.
        command.append(f"--parent={os.getpid()}")
    try:
        # A terminal's Ctrl-C is for this process, which ends the others.
        return subprocess.Popen(
            [*command, os.fspath(bundle)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0,
        )  # fmt: skip
    except OSError as error:
        from foundryrt.errors import FoundryError

        raise FoundryError(f"rank {rank} cannot be started: {error.strerror}") from error


def _refuse(why: str) -> None:
    from foundryrt.errors import UsageError

    raise UsageError(why)
