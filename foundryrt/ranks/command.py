"""`--tp N` of `foundryrt run` and `serve`: the ranks that the command starts, or is one of."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from foundryrt.errors import UsageError
from foundryrt.ranks.asked import begun, device_of, gpu_numbers
from foundryrt.ranks.launcher import Place, place

if TYPE_CHECKING:
    from foundryrt.bundle.schema import Manifest
    from foundryrt.ranks.followers import Followers

_SECONDS = 10
"""In which the command ends once a rank is lost."""


@contextmanager
def others(
    manifest: Manifest, bundle: str, tp: int | None, devices: str | None, serving: bool = False
) -> Iterator[Followers | None]:
    """The other ranks of a bundle for several, which end with the `with` block; None for one.

    In a process that a launcher started as another rank than 0, this takes part until rank 0 ends
    the session, and does not return. A rank that is lost ends the command: RankLost at the end of
    the block, at the latest. UsageError where `tp`, launcher and bundle contradict each other.
    """
    world = manifest.ranks.world if manifest.ranks else 1
    gpus = numbers(devices)
    where = place(os.environ) if world > 1 else None
    _check(manifest, world, tp, gpus, where)
    if world == 1:
        yield None
        return
    if where is not None and where.rank:
        from foundryrt.ranks.follow import follow
        from foundryrt.ranks.meeting import patience

        device = device_of(where.rank, gpus)
        follow(bundle, where.rank, world, device, where.meeting, patience(), quiet=False)
    with _followers(bundle, world, gpus, where) as found:
        over = end_with(found, serving)
        try:
            yield found
            found.check()
        finally:
            over.set()


def more(
    manifest: Manifest, bundle: str, tp: int | None, devices: Sequence[int] | None
) -> Followers | None:
    """The other ranks of a bundle that this process opens beside one; None for one rank."""
    from foundryrt.ranks.followers import Followers

    check_more(manifest, tp, devices)
    return Followers.start(bundle, manifest.ranks.world, devices) if manifest.ranks else None


def check_more(manifest: Manifest, tp: int | None, devices: Sequence[int] | None) -> None:
    """UsageError where `more` was given what contradicts the bundle."""
    world = manifest.ranks.world if manifest.ranks else 1
    _check(manifest, world, tp, None if devices is None else tuple(devices), None)
    if devices is not None and world == 1:
        raise UsageError("--devices: a bundle of one rank stays on rank 0's GPU: leave it out")


def numbers(text: str | None) -> tuple[int, ...] | None:
    """GPUs as `--devices` names them."""
    if text is None:
        return None
    found = gpu_numbers(text)
    if found is None:
        raise UsageError(f"--devices {text}: give GPUs by number, such as 0,1")
    return found


def end_with(followers: Followers, serving: bool = False) -> threading.Event:
    """Have this process end soon once a rank is lost, unless the event is set before."""
    over, begun = threading.Event(), threading.Lock()

    def end(_: int = 0) -> None:
        if begun.acquire(blocking=False):
            _end_soon(followers, serving, over)

    followers.on_loss.append(end)
    if followers.lost is not None:  # perhaps before anybody listened
        end()
    return over


def stop_serving() -> None:
    """End this process's server as if it had been told to; answers under way end with an error."""
    # Sent to the thread that may be waiting for it.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def _followers(
    bundle: str, world: int, gpus: tuple[int, ...] | None, where: Place | None
) -> Followers:
    from foundryrt.ranks.followers import Followers

    if where is not None:
        devices = gpus or tuple(device_of(rank, None) for rank in range(world))
        return Followers(world, devices, where.meeting)
    return Followers.of(begun.pop()) if begun else Followers.start(bundle, world, gpus)


def _check(
    manifest: Manifest,
    world: int,
    tp: int | None,
    gpus: tuple[int, ...] | None,
    where: Place | None,
) -> None:
    from foundryrt.bundle.ranks import MOST

    captured = f"the bundle was captured for {world} rank{'s' * (world > 1)}"
    if tp is not None and tp != world:
        say = f"say --tp {world}" if world > 1 else "leave it out"
        again = f", or capture it with --tp {tp}" if 1 <= tp <= MOST else ""
        raise UsageError(f"--tp {tp}: {captured}: {say}{again}")
    if world > 1 and tp is None and where is None:
        raise UsageError(f"{captured}: say --tp {world}")
    if where is not None and where.world != world:
        raise UsageError(f"{where.launcher} started {where.world} ranks: {captured}")
    if gpus is not None and manifest.target != "cuda":
        raise UsageError("--devices: a host bundle uses no GPU")
    if gpus is not None and len(gpus) != world:
        raise UsageError(f"--devices names {len(gpus)} GPUs: {captured}, name one for each")


def _end_soon(followers: Followers, serving: bool, over: threading.Event) -> None:
    """End this process even if it does not notice: its work may wait for something else."""
    from foundryrt.console import note

    def end() -> None:
        if not over.is_set():
            note(f"error: {followers.lost}")
            os._exit(1)

    # Before there is a server, `Session.open` raises.
    if serving and signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        stop_serving()
    timer = threading.Timer(_SECONDS, end)
    timer.daemon = True
    timer.start()
