"""The parts of a key that do not come from the workload: versions, and the machine."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from foundryc.cache.key import Parts
from foundryc.installed import ABSENT, torch_version, version
from foundryrt.errors import DISTRIBUTION, FoundryError, UsageError
from foundryrt.parallel import available_threads

# Distributions that a CUDA build of torch brings; the names changed with CUDA 13.
_LIBRARIES = {
    "triton": ("triton",),
    "cublas": ("nvidia-cublas", "nvidia-cublas-cu12"),
    "cudnn": ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12"),
}
_MULTIPROCESSORS = 16
# What every bundle of format 1 needs; a named device has no driver of its own.
_LEAST_DRIVER = 13000


@dataclass(frozen=True)
class Device:
    """A GPU as far as a key depends on it; `driver` as `cuDriverGetVersion` gives it."""

    architecture: str
    multiprocessors: int
    driver: int = _LEAST_DRIVER


def profiles() -> dict[str, Device]:
    """Named devices, for keys on a machine without a GPU."""
    text = resources.files("foundryc.cache").joinpath("profiles.json").read_text("utf-8")
    return {name: Device(**facts) for name, facts in json.loads(text).items()}


def profile(name: str) -> Device:
    """The device of that name; UsageError where none is known."""
    known = profiles()
    if name not in known:
        raise UsageError(f"--device-profile {name!r}: one of {', '.join(sorted(known))}")
    return known[name]


def this_device() -> Device:
    """GPU 0 of this machine; FoundryError where there is none."""
    from foundryrt.cuda.driver import CAPABILITY_MAJOR, CAPABILITY_MINOR, Driver

    try:
        driver = Driver()
    except FoundryError as error:
        raise FoundryError(
            f"{error}; `foundryc key` takes --device-profile where there is no GPU"
        ) from error
    driver("cuInit", 0)
    device = driver.ask("cuDeviceGet", 0)

    def attribute(number: int) -> int:
        return driver.ask("cuDeviceGetAttribute", number, device)

    architecture = f"sm_{attribute(CAPABILITY_MAJOR)}{attribute(CAPABILITY_MINOR)}"
    return Device(architecture, attribute(_MULTIPROCESSORS), driver.version())


def environment(target: str, device: Device | None = None) -> Parts:
    """Versions and machine; on cuda of `device`, or of this machine's GPU 0 where it is None."""
    torch = torch_version()
    parts = {"version.foundryc": version(DISTRIBUTION), "version.torch": torch["__version__"]}
    if target == "host":
        return {**parts, "cpu": cpu(), "threads": str(available_threads())}
    device = device or this_device()
    parts["version.cuda"] = torch["cuda"]
    for name, candidates in _LIBRARIES.items():
        found = (version(candidate) for candidate in candidates)
        parts[f"version.{name}"] = next((v for v in found if v != ABSENT), ABSENT)
    return {
        **parts,
        "driver": str(device.driver),
        "device.architecture": device.architecture,
        "device.multiprocessors": str(device.multiprocessors),
    }


def cpu() -> str:
    """Machine and the vector instructions that torch's kernels are chosen by."""
    return f"{platform.machine()} {_capability()}"


def _capability() -> str:
    lines = Path("/proc/cpuinfo")
    named = os.environ.get("ATEN_CPU_CAPABILITY")
    if platform.machine() != "x86_64" or named or not lines.exists():
        import torch  # The rule below is that of x86 alone.

        return torch.backends.cpu.get_cpu_capability()
    found = (line for line in lines.read_text().splitlines() if line.startswith("flags"))
    flags = set(next(found, "").split())
    if {"avx512vl", "avx512bw", "avx512dq", "fma"} <= flags:
        return "AVX512"
    return "AVX2" if {"avx2", "fma"} <= flags else "DEFAULT"
