"""Who takes part: rank 0 hears all others, and refuses what does not fit, by name."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from foundryrt.errors import FoundryError
from foundryrt.progress import progress_bar
from foundryrt.ranks.meeting import Hello, is_own, patience, receive, send


@dataclass(frozen=True)
class Member:
    """Another rank: what it said, and the connection to it."""

    hello: Hello
    connection: socket.socket


def meet(
    listener: socket.socket,
    own: Hello,
    members: dict[int, Member],
    ended: Callable[[int], FoundryError | None],
) -> None:
    """Fill `members`, by rank, with all ranks but the own one.

    FoundryError where one is late, ends, or cannot take part, which it is told. `ended(rank)` is
    the error of a rank whose process has ended.
    """
    end = time.monotonic() + patience()
    unknown: list[socket.socket] = []
    try:
        with progress_bar(own.world - 1, "waiting for ranks") as update:
            while missing := [rank for rank in range(1, own.world) if rank not in members]:
                # Asked before the sockets are, which then have its last words.
                gone = next(filter(None, map(ended, range(1, own.world))), None)
                left = end - time.monotonic()
                if left <= 0:
                    names = ", ".join(map(str, missing))
                    raise FoundryError(
                        f"rank {names} of {own.world} did not come within {patience():g} s; start"
                        " all ranks with the same command, or set FOUNDRY_RANK_TIMEOUT to more"
                        " seconds"
                    )
                known = [member.connection for member in members.values()]
                ready = _ready([listener, *unknown, *known], 0 if gone else min(left, 0.1))
                if gone and not ready:
                    raise gone
                for member in [each for each in members.values() if each.connection in ready]:
                    _hear(member, ended)
                # It may take long until a rank has opened its bundle, and says who it is.
                for connection in [each for each in unknown if each in ready]:
                    unknown.remove(connection)
                    _admit(connection, own, members)
                    update(len(members))
                if listener in ready:
                    unknown += _accepted(listener)
    finally:
        for connection in unknown:
            connection.close()
    hellos = {0: own, **{rank: member.hello for rank, member in members.items()}}
    for hello in hellos.values():
        _check_gpus(hello, hellos)


def _ready(sockets: Sequence[socket.socket], seconds: float) -> list[socket.socket]:
    """Those that have news. A server may have more files open than select(2) takes."""
    with selectors.DefaultSelector() as selector:
        for each in sockets:
            selector.register(each, selectors.EVENT_READ, each)
        return [key.data for key, _ in selector.select(seconds)]


def _accepted(listener: socket.socket) -> list[socket.socket]:
    """Who connects, where it is of this user."""
    connection, _ = listener.accept()
    if is_own(connection):
        return [connection]
    connection.close()
    return []


def _hear(member: Member, ended: Callable[[int], FoundryError | None]) -> None:
    """FoundryError where a rank that has come ends before all have."""
    try:
        message, _ = receive(member.connection)
    except (OSError, ValueError):
        message = None
    if message is None:
        if gone := ended(member.hello.rank):
            raise gone
        message = {"failed": "it has ended"}
    if "failed" in message:
        name = f"rank {member.hello.rank} (process {member.hello.pid})"
        raise FoundryError(f"{name} cannot take part: {message['failed']}")


def _admit(connection: socket.socket, own: Hello, members: dict[int, Member]) -> None:
    """FoundryError for a rank that cannot take part; others than ranks are sent away."""
    try:
        message, _ = receive(connection)
    except (OSError, ValueError):
        message = None
    if message is None:
        connection.close()
        return
    if "failed" in message:
        connection.close()
        raise FoundryError(f"rank {message.get('rank')} cannot take part: {message['failed']}")
    try:
        hello = Hello.read(message)
        problem = _problem(hello, own, members)
    except ValueError as error:
        problem = f"a rank cannot take part: {error}; use one version of foundryrt for all"
    if problem:
        with contextlib.suppress(OSError):
            send(connection, {"refused": problem})
        connection.close()
        raise FoundryError(problem)
    members[hello.rank] = Member(hello, connection)


def _problem(hello: Hello, own: Hello, members: Mapping[int, Member]) -> str:
    name = f"rank {hello.rank} (process {hello.pid})"
    if hello.world != own.world:
        return f"{name} was started as one of {hello.world}, rank 0 as one of {own.world}"
    if not 0 < hello.rank < own.world or hello.rank in members:
        taken = "is there twice" if hello.rank else "is rank 0's own place"
        return f"{name} {taken}: start every rank once, numbered 0 to {own.world - 1}"
    if hello.digest != own.digest:
        return (
            f"{name} opened another bundle, {hello.digest[:16]}…, than rank 0,"
            f" {own.digest[:16]}…: give all ranks the same file"
        )
    if hello.version != own.version:
        return (
            f"{name} runs foundryrt {hello.version}, rank 0 {own.version}: use one version for all"
        )
    return ""


def _check_gpus(hello: Hello, hellos: Mapping[int, Hello]) -> None:
    for rank, other in hellos.items():
        if other.gpu not in (*hello.visible, hello.gpu):
            raise FoundryError(
                f"rank {hello.rank} (process {hello.pid}) does not see the GPU of rank {rank},"
                f" {other.gpu or 'none'}: every rank must see the GPUs of all; set the same"
                " CUDA_VISIBLE_DEVICES for all (Slurm: --gpus-per-node, not --gpus-per-task)"
            )
