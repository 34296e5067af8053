"""A rank's device: who it is, and what differs between host and cuda when ranks meet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from foundryrt.errors import FoundryError
from foundryrt.ranks.meeting import Hello

if TYPE_CHECKING:
    from foundryrt.backend import RankBackend
    from foundryrt.bundle.reader import Bundle


def hello(bundle: Bundle, rank: int, world: int, device: int) -> Hello:
    """What a rank says first; FoundryError where it has no such GPU."""
    gpus = _gpus() if bundle.manifest.target == "cuda" else []
    if gpus and not 0 <= device < len(gpus):
        raise FoundryError(
            f"rank {rank} is to use GPU {device}, and sees {len(gpus)}; see CUDA_VISIBLE_DEVICES"
        )
    gpu = gpus[device] if gpus else ""
    return Hello(rank, world, bundle.digest.hex(), gpu, tuple(gpus), os.getpid())


def check_devices(bundle: Bundle, devices: Sequence[int]) -> None:
    """FoundryError where there are fewer GPUs than ranks need."""
    if bundle.manifest.target != "cuda":
        return
    there = len(_gpus())
    if max(devices) >= there:
        raise FoundryError(
            f"{len(devices)} ranks are to use GPUs {', '.join(map(str, devices))}; here"
            f" {'is' if there == 1 else 'are'} {there}. Name others by --devices: several ranks may"
            f" share one, which is slow"
        )


def _gpus() -> list[str]:
    """UUIDs of the GPUs that this process sees, in CUDA's order."""
    import ctypes

    from foundryrt.cuda.driver import driver

    cuda = driver()
    found = []
    for ordinal in range(cuda.ask("cuDeviceGetCount")):
        uuid = (ctypes.c_ubyte * 16)()
        cuda("cuDeviceGetUuid_v2", uuid, cuda.ask("cuDeviceGet", ordinal))
        found.append(f"GPU-{UUID(bytes=bytes(uuid))}")
    return found


def prepare(backend: RankBackend, bundle: Bundle, first: int | None) -> None:
    """On the host, have the first graph ready, which imports torch: ranks wait for each other only
    for seconds. On cuda, opening the backend does so."""
    if bundle.manifest.target == "host":
        from foundryrt.host.backend import HostBackend

        assert isinstance(backend, HostBackend)
        backend.require(first or 0)


def read_only(tensor: Any) -> Any:
    """A numpy view or `DeviceTensor` that refuses to be written to."""
    if not hasattr(tensor, "flags"):
        return replace(tensor, readonly=True)
    tensor.flags.writeable = False
    return tensor
