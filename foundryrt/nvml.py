"""GPUs as NVIDIA's management library (NVML) sees them.

Reading them makes no CUDA context, takes no device memory and does not even load libcuda.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from types import ModuleType, TracebackType
from typing import Any

from foundryrt.errors import FoundryError

# NVML's own numbers; its names for them are in nvml.h.
_TEMPERATURE_GPU = 0
_P2P_READ = 0
_LINK_TO_SWITCH = 2
_COMPUTE_MODES = {0: "default", 2: "prohibited", 3: "exclusive process"}
_PATHS = {
    0: "same board", 10: "one PCIe switch", 20: "several PCIe switches", 30: "PCIe host bridge",
    40: "one NUMA node", 50: "across NUMA nodes",
}  # fmt: skip
_MOST_LINKS = 36


class NoNvml(FoundryError):
    """There is no NVIDIA driver here, or it does not answer."""


@dataclass(frozen=True)
class Load:
    """What a GPU is doing; None where it does not say. Bytes, percent, degrees Celsius, watts."""

    memory_used: int | None
    memory_total: int | None
    utilization: int | None
    temperature: int | None
    power: float | None


@dataclass(frozen=True)
class Process:
    """A process that uses a GPU; name and bytes are None where the driver does not tell them."""

    pid: int
    name: str | None
    memory: int | None


@dataclass(frozen=True)
class Gpu:
    """A GPU; None stands for what it does not say or we may not ask."""

    index: int
    """NVML's, which is that of the PCI bus."""
    name: str
    uuid: str
    architecture: str
    """Such as `sm_90`."""
    load: Load
    memory_free: int | None
    compute_mode: str | None
    persistence: bool | None
    mig: bool | None
    instances: tuple[str, ...]
    """UUIDs of its MIG devices."""
    processes: tuple[Process, ...] | None

    @property
    def usable(self) -> bool:
        """Whether a process may start work on it at all."""
        return self.compute_mode != "prohibited" and (not self.mig or bool(self.instances))


@dataclass(frozen=True)
class Link:
    """How two GPUs, by index, reach each other."""

    first: int
    second: int
    path: str
    """`NVLink`, `NVLink switch`, or what on the PCI bus is between them."""
    nvlinks: int
    """Links of the first that are up and lead to the second, or to a switch."""
    peer: bool | None
    """Whether one reads the other's memory."""


class Nvml:
    """The open library. Every question it does not answer gives None."""

    def __init__(self) -> None:
        """NoNvml where there is none."""
        try:
            import pynvml
        except ImportError:
            raise NoNvml("nvidia-ml-py is not installed: pip install nvidia-ml-py") from None
        self._library: ModuleType = pynvml
        try:
            self._library.nvmlInit()
        except self._library.NVMLError as error:
            raise NoNvml(f"no NVIDIA driver answers: {error}") from None

    def __enter__(self) -> Nvml:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(self._library.NVMLError):
            self._library.nvmlShutdown()

    def _ask(self, name: str, *arguments: object) -> Any:
        # A name that is not UTF-8 is no answer either.
        with contextlib.suppress(self._library.NVMLError, UnicodeDecodeError):
            return getattr(self._library, f"nvml{name}")(*arguments)
        return None

    def driver(self) -> tuple[str, int]:
        """The driver's version, and the newest CUDA it knows as `cuDriverGetVersion` gives it."""
        version = self._ask("SystemGetDriverVersion")
        return version or "unknown", self._ask("SystemGetCudaDriverVersion_v2") or 0

    def gpus(self) -> list[Gpu]:
        """Every GPU that the driver shows to this process or its container."""
        return [self._gpu(index, handle) for index, handle in self._handles()]

    def loads(self) -> list[tuple[str, str, Load]]:
        """UUID, name and load of every GPU, with few questions."""
        return [(self._uuid(h), self._name(h), self._load(h)) for _, h in self._handles()]

    def links(self) -> list[Link]:
        """How each pair of GPUs is connected."""
        handles = self._handles()
        buses = {self._bus(handle): index for index, handle in handles}
        to = {index: self._nvlinks(handle, buses) for index, handle in handles}
        return [
            self._link(first, second, to[first[0]]) for first, second in combinations(handles, 2)
        ]

    def _handles(self) -> list[tuple[int, Any]]:
        found = [
            (index, self._ask("DeviceGetHandleByIndex", index))
            for index in range(self._ask("DeviceGetCount") or 0)
        ]
        return [(index, handle) for index, handle in found if handle is not None]

    def _uuid(self, handle: Any) -> str:
        return self._ask("DeviceGetUUID", handle) or "unknown"

    def _name(self, handle: Any) -> str:
        return self._ask("DeviceGetName", handle) or "unknown"

    def _gpu(self, index: int, handle: Any) -> Gpu:
        capability = self._ask("DeviceGetCudaComputeCapability", handle)
        memory = self._ask("DeviceGetMemoryInfo", handle)
        mode = self._ask("DeviceGetComputeMode", handle)
        persistence = self._ask("DeviceGetPersistenceMode", handle)
        mig = self._ask("DeviceGetMigMode", handle)
        return Gpu(
            index=index,
            name=self._name(handle),
            uuid=self._uuid(handle),
            architecture="sm_{}{}".format(*capability) if capability else "unknown",
            load=self._load(handle),
            memory_free=memory.free if memory else None,
            compute_mode=None if mode is None else _COMPUTE_MODES.get(mode, f"mode {mode}"),
            persistence=None if persistence is None else bool(persistence),
            mig=None if mig is None else bool(mig[0]),
            instances=self._instances(handle) if mig and mig[0] else (),
            processes=self._processes(handle),
        )

    def _load(self, handle: Any) -> Load:
        memory = self._ask("DeviceGetMemoryInfo", handle)
        rates = self._ask("DeviceGetUtilizationRates", handle)
        milliwatts = self._ask("DeviceGetPowerUsage", handle)
        return Load(
            memory_used=memory.used if memory else None,
            memory_total=memory.total if memory else None,
            utilization=rates.gpu if rates else None,
            temperature=self._ask("DeviceGetTemperature", handle, _TEMPERATURE_GPU),
            power=None if milliwatts is None else milliwatts / 1000,
        )

    def _instances(self, handle: Any) -> tuple[str, ...]:
        devices = (
            self._ask("DeviceGetMigDeviceHandleByIndex", handle, index)
            for index in range(self._ask("DeviceGetMaxMigDeviceCount", handle) or 0)
        )
        return tuple(self._uuid(device) for device in devices if device is not None)

    def _processes(self, handle: Any) -> tuple[Process, ...] | None:
        computing = self._ask("DeviceGetComputeRunningProcesses", handle)
        drawing = self._ask("DeviceGetGraphicsRunningProcesses", handle)
        if computing is None and drawing is None:
            return None
        found = {process.pid: process for process in (*(drawing or ()), *(computing or ()))}
        return tuple(
            Process(pid, self._ask("SystemGetProcessName", pid), process.usedGpuMemory)
            for pid, process in sorted(found.items())
        )

    def _bus(self, handle: Any) -> str:
        place = self._ask("DeviceGetPciInfo", handle)
        return str(place.busId) if place else ""

    def _nvlinks(self, handle: Any, buses: dict[str, int]) -> dict[int | None, int]:
        """Links that are up by the GPU they lead to; None stands for a switch."""
        found: dict[int | None, int] = {}
        for link in range(_MOST_LINKS):
            if not self._ask("DeviceGetNvLinkState", handle, link):
                continue
            to = None
            if self._ask("DeviceGetNvLinkRemoteDeviceType", handle, link) != _LINK_TO_SWITCH:
                place = self._ask("DeviceGetNvLinkRemotePciInfo", handle, link)
                to = buses.get(str(place.busId), -1) if place else -1
            found[to] = found.get(to, 0) + 1
        return found

    def _link(
        self, first: tuple[int, Any], second: tuple[int, Any], nvlinks: dict[int | None, int]
    ) -> Link:
        direct, switched = nvlinks.get(second[0], 0), nvlinks.get(None, 0)
        level = self._ask("DeviceGetTopologyCommonAncestor", first[1], second[1])
        path = _PATHS.get(level, "unknown")
        if direct or switched:
            path = "NVLink" if direct else "NVLink switch"
        status = self._ask("DeviceGetP2PStatus", first[1], second[1], _P2P_READ)
        peer = None if status is None else status == 0
        return Link(first[0], second[0], path, direct or switched, peer)


def visible(gpus: Sequence[Gpu], setting: str | None) -> list[Gpu]:
    """The GPUs that CUDA will offer, in order, where CUDA_VISIBLE_DEVICES is `setting`.

    As CUDA does, whatever follows a name of no GPU counts for nothing. Numbers are taken as
    positions on the PCI bus; CUDA's own are, unless GPUs of several kinds are mixed.
    """
    usable = [gpu for gpu in gpus if gpu.usable]
    if setting is None:
        return usable
    found: list[Gpu] = []
    for name in (part.strip() for part in setting.split(",")):
        if name.isdigit():
            matching = [gpu for gpu in gpus if gpu.index == int(name)]
        elif name.startswith("MIG-"):
            matching = [gpu for gpu in gpus if any(i.startswith(name) for i in gpu.instances)]
        else:
            matching = [gpu for gpu in gpus if name and gpu.uuid.startswith(name)]
        if len(matching) != 1:
            break
        found += [gpu for gpu in matching if gpu in usable]
    return found
