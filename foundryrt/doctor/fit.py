"""Whether a bundle can run on a machine: each thing that it needs, beside what is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from msgspec import structs

from foundryrt.bundle.builds import architectures
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Requirements
from foundryrt.doctor.machine import Machine
from foundryrt.errors import DISTRIBUTION, FoundryError, install
from foundryrt.nvml import Gpu
from foundryrt.printable import size
from foundryrt.weights import find_file
from foundryrt.workload import RUN, find_run, names


@dataclass(frozen=True)
class Check:
    """One need of a bundle."""

    what: str
    needed: str
    found: str
    ok: bool | None
    """None where it may not matter, or cannot be told before the bundle is opened."""
    remedy: str = ""


def checks(bundle: Bundle, machine: Machine, weights: Path | None) -> list[Check]:
    """Everything that `bundle` needs, with weight files in `weights` or where they were."""
    needs = bundle.manifest.requirements
    world = bundle.manifest.ranks.world if bundle.manifest.ranks else 1
    if bundle.manifest.target == "cuda":
        found = [*_cuda(needs, architectures(bundle.manifest), machine), *_gpus(world, machine)]
    else:
        found = [*_host(structs.replace(needs, memory=world * needs.memory), machine)]
    found += [_workload(bundle), *_weights(bundle, weights)]
    return [replace(check, remedy="") if check.ok else check for check in found]


def _cuda(needs: Requirements, those: tuple[str, ...], machine: Machine) -> Iterator[Check]:
    yield Check(
        "driver",
        f"CUDA {release(needs.driver)} or later",
        f"{machine.driver}, CUDA {release(machine.cuda)}" if machine.driver else "none",
        machine.driver is not None and machine.cuda >= needs.driver,
        "update NVIDIA's driver" if machine.driver else f"install one: {machine.no_driver}",
    )
    yield _library("libcuda", machine, "install NVIDIA's driver, or give it to the container")
    yield _library("foundryrt", machine, f"install {DISTRIBUTION} again, for this platform")
    first = next((gpu for gpu in machine.gpus if gpu.index in machine.visible[:1]), None)
    if first is None:
        yield Check("GPU", " or ".join(those), "none", False, _no_gpu(machine))
        return
    yield Check(
        "architecture",
        " or ".join(those),
        f"{first.architecture} ({first.name})",
        first.architecture in those,
        "capture the bundle again on such a GPU" + _another(needs, those, machine, first),
    )
    free = first.memory_free
    yield Check(
        "device memory",
        f"{size(needs.memory)} for the arena",
        "unknown" if free is None else f"{size(free)} free on GPU {first.index}",
        None if free is None else needs.memory <= free,
        "end what else uses the GPU" + _another(needs, those, machine, first),
    )
    if first.compute_mode == "exclusive process":
        users = len(first.processes or ())
        yield Check(
            "compute mode", "a GPU that takes one more process",
            f"exclusive process, {users} there", not users, "end that process",
        )  # fmt: skip


def _gpus(world: int, machine: Machine) -> Iterator[Check]:
    """What more than one rank needs."""
    there = len(machine.visible)
    if world > 1:
        yield Check(
            "GPUs",
            f"{world}, one a rank",
            str(there),
            True if there >= world else None,
            "give each rank's by --devices: several may share one, if its memory allows, slowly",
        )


def _host(needs: Requirements, machine: Machine) -> Iterator[Check]:
    yield Check(
        "torch",
        needs.torch,
        machine.torch or "not installed",
        machine.torch is not None and _minor(machine.torch) == _minor(needs.torch),
        f"install torch {needs.torch} or capture again" if machine.torch else install("host"),
    )
    available = machine.memory_available
    yield Check(
        "memory",
        f"{size(needs.memory)} for the arena",
        "unknown" if available is None else f"{size(available)} available",
        None if available is None else needs.memory <= available,
        "end other programs, or capture with smaller sizes",
    )


def _minor(version: str) -> list[str]:
    """Operators are the same within a minor release; builds (+cpu, +cu130) do not matter."""
    return version.partition("+")[0].split(".")[:2]


def _library(name: str, machine: Machine, remedy: str) -> Check:
    reason = machine.libraries.get(name, "not found")
    what = "native core" if name == "foundryrt" else name
    return Check(what, "can be loaded", reason or "can be loaded", not reason, remedy)


def _workload(bundle: Bundle) -> Check:
    name = bundle.manifest.workload.name
    if name not in names(RUN):
        known = ", ".join(names(RUN)) or "none"
        return Check(
            "workload", name, f"{known} installed", None,
            "give its file with --workload, or open the bundle in a program of yours",
        )  # fmt: skip
    try:
        find_run(name)
    except FoundryError as error:
        return Check("workload", name, "installed, but cannot be imported", False, str(error))
    return Check("workload", name, "installed", True)


def _weights(bundle: Bundle, folder: Path | None) -> Iterator[Check]:
    for file in bundle.manifest.weights.files:
        try:
            found, ok, remedy = str(find_file(file, folder)), True, ""
        except FoundryError as error:
            found, ok, remedy = (
                "missing, or of another size",
                False,
                str(error).removeprefix("weights: "),
            )
        yield Check("weights", f"{file.name} ({size(file.size)})", found, ok, remedy)


def _no_gpu(machine: Machine) -> str:
    if machine.gpus and machine.visible_devices is not None:
        return f"CUDA_VISIBLE_DEVICES={machine.visible_devices} leaves none; name another"
    if machine.gpus:
        return "those here may not be used: see their compute mode and MIG devices"
    return "run it where there is such a GPU, or capture it with --target host"


def _another(needs: Requirements, those: tuple[str, ...], machine: Machine, first: Gpu) -> str:
    for gpu in machine.gpus:
        fits = gpu.architecture in those and needs.memory <= (gpu.memory_free or 0)
        if gpu is not first and gpu.usable and fits:
            return f"; GPU {gpu.index} would do: CUDA_VISIBLE_DEVICES={gpu.uuid}"
    return ""


def release(version: int) -> str:
    """`13.0` of 13000, as drivers and bundles count."""
    return f"{version // 1000}.{version % 1000 // 10}"
