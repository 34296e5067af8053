"""GPU gauges of `/metrics`, by a stand-in for NVML."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("prometheus_client")
from prometheus_client import CollectorRegistry, generate_latest

from parse_runtime.serve import gpus
from tests.unit.fake_nvml import GIB, FakeGpu, FakeNvml, NVMLError


def page(collector: gpus.GpuCollector) -> list[str]:
    registry = CollectorRegistry()
    registry.register(collector)
    return [line for line in generate_latest(registry).decode().splitlines() if line[0] != "#"]


def test_gauges(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(FakeGpu(used=3 * GIB), FakeGpu(uuid="GPU-1b", watts=NVMLError("no")))
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    lines = page(gpus.GpuCollector())
    assert 'foundry_gpu_memory_used_bytes{gpu="GPU-0a",name="NVIDIA H200"} 3.221225472e+09' in lines
    assert 'foundry_gpu_utilization_ratio{gpu="GPU-1b",name="NVIDIA H200"} 0.37' in lines
    assert len(lines) == 9  # of ten, the second GPU's power is not told
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert all("GPU-1b" in line for line in page(gpus.GpuCollector()))


def test_a_scrape_asks_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(FakeGpu())
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    now = 100.0
    monkeypatch.setattr(gpus.time, "monotonic", lambda: now)
    collector = gpus.GpuCollector()
    assert nvml.open == 0
    first, asked = page(collector), nvml.asked
    assert page(collector) == first and nvml.asked == asked
    now += 1
    page(collector)
    assert nvml.asked > asked and nvml.open == 1


@pytest.mark.parametrize("nvml", [FakeNvml(), FakeNvml(refuses="not found"), None])
def test_no_gpu_no_gauge(monkeypatch: pytest.MonkeyPatch, nvml: object) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    collector = gpus.GpuCollector()
    assert page(collector) == [] == page(collector)
