"""A stand-in for the module pynvml: GPUs as a test describes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

GIB = 1 << 30


class NVMLError(Exception):
    """As pynvml's."""


@dataclass(eq=False)
class FakeGpu:
    """A GPU and its handle; a value that is an NVMLError is raised where it is asked for."""

    name: object = "NVIDIA H200"
    uuid: str = "GPU-0a"
    capability: object = (9, 0)
    total: int = 140 * GIB
    used: int = 2 * GIB
    processes: object = ()
    mode: object = 0
    persistence: object = 1
    mig: object = field(default_factory=lambda: NVMLError("Not Supported"))
    instances: Sequence[FakeGpu] = ()
    watts: object = 120.5
    switched: int = 0
    """NVLinks to a switch."""
    linked: Sequence[FakeGpu] = ()
    """What its other NVLinks lead to."""


def _told(value: object) -> object:
    if isinstance(value, Exception):
        raise value
    return value


class FakeNvml:
    """What foundryrt/nvml.py asks of pynvml; `names` has the processes whose name is told."""

    NVMLError = NVMLError

    def __init__(
        self,
        *gpus: FakeGpu,
        refuses: str = "",
        names: dict[int, object] | None = None,
        path: int = 20,
        peer: object = 0,
    ) -> None:
        self._gpus, self._refuses, self._names = gpus, refuses, names or {}
        self._path, self._peer = path, peer
        self.open = 0
        self.asked = 0

    def nvmlInit(self) -> None:
        if self._refuses:
            raise NVMLError(self._refuses)
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def __getattr__(self, name: str) -> Callable[..., object]:
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def ask(*arguments: object) -> object:
            assert self.open, f"{name} before nvmlInit"
            self.asked += 1
            return _told(getattr(self, f"_{name.removeprefix('nvml')}")(*arguments))

        return ask

    def _SystemGetDriverVersion(self) -> object:
        return "580.95.05"

    def _SystemGetCudaDriverVersion_v2(self) -> object:
        return 13000

    def _SystemGetProcessName(self, pid: int) -> object:
        return self._names.get(pid, NVMLError("Not Found"))

    def _DeviceGetCount(self) -> object:
        return len(self._gpus)

    def _DeviceGetHandleByIndex(self, index: int) -> object:
        return self._gpus[index]

    def _DeviceGetName(self, gpu: FakeGpu) -> object:
        return gpu.name

    def _DeviceGetUUID(self, gpu: FakeGpu) -> object:
        return gpu.uuid

    def _DeviceGetCudaComputeCapability(self, gpu: FakeGpu) -> object:
        return gpu.capability

    def _DeviceGetMemoryInfo(self, gpu: FakeGpu) -> object:
        return SimpleNamespace(total=gpu.total, used=gpu.used, free=gpu.total - gpu.used)

    def _DeviceGetComputeMode(self, gpu: FakeGpu) -> object:
        return gpu.mode

    def _DeviceGetPersistenceMode(self, gpu: FakeGpu) -> object:
        return gpu.persistence

    def _DeviceGetMigMode(self, gpu: FakeGpu) -> object:
        return gpu.mig

    def _DeviceGetMaxMigDeviceCount(self, gpu: FakeGpu) -> object:
        return 7

    def _DeviceGetMigDeviceHandleByIndex(self, gpu: FakeGpu, index: int) -> object:
        return gpu.instances[index] if index < len(gpu.instances) else NVMLError("Not Found")

    def _DeviceGetUtilizationRates(self, gpu: FakeGpu) -> object:
        return SimpleNamespace(gpu=37, memory=5)

    def _DeviceGetTemperature(self, gpu: FakeGpu, sensor: int) -> object:
        return 41

    def _DeviceGetPowerUsage(self, gpu: FakeGpu) -> object:
        return round(gpu.watts * 1000) if isinstance(gpu.watts, float) else gpu.watts

    def _DeviceGetComputeRunningProcesses(self, gpu: FakeGpu) -> object:
        if isinstance(gpu.processes, Exception):
            return gpu.processes
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in gpu.processes]

    def _DeviceGetGraphicsRunningProcesses(self, gpu: FakeGpu) -> object:
        return gpu.processes if isinstance(gpu.processes, Exception) else []

    def _DeviceGetPciInfo(self, gpu: FakeGpu) -> object:
        return SimpleNamespace(busId=f"0000:{id(gpu):x}")

    def _DeviceGetNvLinkState(self, gpu: FakeGpu, link: int) -> object:
        return 1 if link < gpu.switched + len(gpu.linked) else NVMLError("Not Supported")

    def _DeviceGetNvLinkRemoteDeviceType(self, gpu: FakeGpu, link: int) -> object:
        return 2 if link < gpu.switched else 0

    def _DeviceGetNvLinkRemotePciInfo(self, gpu: FakeGpu, link: int) -> object:
        return self._DeviceGetPciInfo(gpu.linked[link - gpu.switched])

    def _DeviceGetTopologyCommonAncestor(self, first: FakeGpu, second: FakeGpu) -> object:
        return self._path

    def _DeviceGetP2PStatus(self, first: FakeGpu, second: FakeGpu, index: int) -> object:
        return self._peer
