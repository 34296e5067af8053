"""Gauges of the GPUs that this process may use, from NVML; none where there is no GPU."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from foundryrt.nvml import Load, NoNvml, Nvml, visible

_FRESH = 1.0
"""Seconds that a reading is good for: a question to a busy driver may take some milliseconds."""
_GAUGES = {
    "foundry_gpu_memory_used_bytes": ("Memory in use, by any process", "memory_used", 1.0),
    "foundry_gpu_memory_total_bytes": ("Memory in all", "memory_total", 1.0),
    "foundry_gpu_utilization_ratio": (
        "Part of the time that kernels ran",
        "utilization",
        0.01,
    ),
    "foundry_gpu_temperature_celsius": ("Temperature", "temperature", 1.0),
    "foundry_gpu_power_watts": ("Power drawn", "power", 1.0),
}
"""By name: what it says, the field of Load, and what one of its units is."""


class GpuCollector(Collector):
    """Opens NVML with the first scrape, so that starting does not wait for it."""

    def __init__(self) -> None:
        self._nvml: Nvml | None = None
        self._devices: set[str] = set()
        self._opened = False
        self._until = 0.0
        self._read: list[tuple[str, str, Load]] = []

    def collect(self) -> Iterable[Metric]:
        """A family for each gauge that some GPU tells."""
        self._refresh()
        for name, (text, field, unit) in _GAUGES.items():
            family = GaugeMetricFamily(name, text, labels=["gpu", "name"])
            for uuid, device, load in self._read:
                value = getattr(load, field)
                if value is not None:
                    family.add_metric([uuid, device], value * unit)
            if family.samples:
                yield family

    def _refresh(self) -> None:
        if not self._opened:
            self._opened = True
            try:
                self._nvml = Nvml()
            except NoNvml:
                return
            gpus = visible(self._nvml.gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
            self._devices = {gpu.uuid for gpu in gpus}
        now = time.monotonic()
        if self._nvml is not None and now >= self._until:
            self._read = [read for read in self._nvml.loads() if read[0] in self._devices]
            self._until = now + _FRESH
