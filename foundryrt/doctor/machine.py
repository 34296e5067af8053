"""What this machine offers."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from foundryrt.errors import DISTRIBUTION
from foundryrt.free_memory import free_memory
from foundryrt.nvml import Gpu, Link, NoNvml, Nvml, visible

_EXTRA = re.compile(r"""extra\s*==\s*['"]([\w.-]+)['"]""")
_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Machine:
    """Sizes are in bytes."""

    system: str
    python: str
    cores: int
    memory_available: int | None
    torch: str | None
    """The installed version, or None."""
    libraries: dict[str, str]
    """By name (libcuda, the native cores), why it cannot be loaded; empty where it can."""
    missing: dict[str, list[str]]
    """By extra, the packages that it needs and that are not installed."""
    driver: str | None
    cuda: int
    """The newest CUDA that the driver knows, as 1000 * major + 10 * minor; 0 without a driver."""
    no_driver: str
    """Why there is no driver, or nothing."""
    gpus: tuple[Gpu, ...]
    links: tuple[Link, ...]
    visible_devices: str | None
    """CUDA_VISIBLE_DEVICES."""
    visible: tuple[int, ...]
    """Indices of the GPUs that CUDA offers, in its order."""
    container: bool


def this_machine() -> Machine:
    """Look around; nothing is touched, and whatever cannot be found out is None."""
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    driver, cuda, reason = None, 0, ""
    gpus: list[Gpu] = []
    links: list[Link] = []
    try:
        with Nvml() as nvml:
            (driver, cuda), gpus, links = nvml.driver(), nvml.gpus(), nvml.links()
    except NoNvml as error:
        reason = str(error)
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        cores=len(os.sched_getaffinity(0)),
        memory_available=free_memory(),
        torch=_version("torch"),
        libraries=_libraries(),
        missing=_missing(),
        driver=driver,
        cuda=cuda,
        no_driver=reason,
        gpus=tuple(gpus),
        links=tuple(links),
        visible_devices=setting,
        visible=tuple(gpu.index for gpu in visible(gpus, setting)),
        container=Path("/.dockerenv").exists() or Path("/run/.containerenv").exists(),
    )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _libraries() -> dict[str, str]:
    paths = {"libcuda": os.environ.get("FOUNDRY_LIBCUDA") or "libcuda.so.1"}
    for package in ("foundryrt", "foundryc"):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or [])[:1] if spec else []:
            paths[package] = str(Path(folder, "native", f"lib{package}.so"))
    return {name: _unloadable(path) for name, path in paths.items()}


def _unloadable(path: str) -> str:
    try:
        # Loading libcuda starts nothing: that is what cuInit is for.
        ctypes.CDLL(path)
    except OSError as error:
        return str(error)
    return ""


def _missing() -> dict[str, list[str]]:
    try:
        needs = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    for line in needs:
        extra, name = _EXTRA.search(line), _NAME.match(line)
        if extra and name:
            missing = found.setdefault(extra[1], [])
            missing += [] if _version(name[0]) else [name[0]]
    return found
