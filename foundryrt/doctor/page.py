"""What the doctor says: to people as a page, to programs as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from foundryrt.bundle.reader import Bundle
from foundryrt.console import print_table, printable, write
from foundryrt.doctor.fit import Check, release
from foundryrt.doctor.machine import Machine
from foundryrt.nvml import Gpu
from foundryrt.printable import size


def as_json(machine: Machine, bundle: Bundle | None, found: Sequence[Check]) -> dict[str, Any]:
    """The machine; with a bundle also its checks, and `fits`: false where one of them fails."""
    report: dict[str, Any] = {"machine": dataclasses.asdict(machine)}
    if bundle is not None:
        report["bundle"] = {
            "path": str(bundle.path),
            "workload": bundle.manifest.workload.name,
            "target": bundle.manifest.target,
            "fits": fits(found),
            "checks": [dataclasses.asdict(check) for check in found],
        }
    return report


def fits(found: Sequence[Check]) -> bool:
    """Whether nothing is known to be missing."""
    return all(check.ok is not False for check in found)


def print_machine(machine: Machine) -> None:
    """Facts in lines, then a table each of the GPUs, the processes on them and their links."""
    facts = dict(_facts(machine))
    width = max(map(len, facts))
    write("".join(f"{name:{width}}  {printable(value)}\n" for name, value in facts.items()))
    if not machine.gpus:
        return
    print_table(
        "GPUs", ("GPU", "name", "architecture", "memory used, free, in all", "state", "uuid"),
        (
            (f"{gpu.index}{'' if gpu.index in machine.visible else ' (hidden)'}", gpu.name,
             gpu.architecture, _memory(gpu), _state(gpu), gpu.uuid)
            for gpu in machine.gpus
        ),
    )  # fmt: skip
    users = [(gpu, process) for gpu in machine.gpus for process in gpu.processes or ()]
    if users:
        print_table(
            "Processes", ("GPU", "pid", "name", "memory"),
            (
                (gpu.index, process.pid, process.name or "unknown (not of this container?)",
                 size(process.memory))
                for gpu, process in users
            ),
        )  # fmt: skip
    if machine.links:
        print_table(
            "Links", ("GPUs", "path", "NVLinks", "reads the other's memory"),
            (
                (f"{link.first}, {link.second}", link.path, link.nvlinks or "-", _yes(link.peer))
                for link in machine.links
            ),
        )  # fmt: skip


def print_checks(bundle: Bundle, found: Sequence[Check]) -> None:
    """A table of what the bundle needs; then whether it fits, and else what to do."""
    write("\n")
    title = f"{bundle.path}: workload {bundle.manifest.workload.name}, {bundle.manifest.target}"
    print_table(
        title, ("", "needs", "needed", "found"),
        (
            ({True: "ok", False: "no", None: "?"}[check.ok], check.what, check.needed, check.found)
            for check in found
        ),
    )  # fmt: skip
    for check in found:
        if not check.ok and check.remedy:
            write(f"{check.what}: {printable(check.remedy)}\n")
    write("it can run here\n" if fits(found) else "it cannot run here\n")


def _facts(machine: Machine) -> Iterator[tuple[str, str]]:
    place = ", in a container" if machine.container else ""
    yield "machine", f"{machine.system}, {machine.cores} cores{place}, Python {machine.python}"
    yield "memory", f"{size(machine.memory_available)} available"
    yield "torch", machine.torch or "not installed"
    if machine.driver:
        yield "driver", f"{machine.driver}, knows CUDA {release(machine.cuda)}"
    else:
        yield "driver", f"none: {machine.no_driver}"
    if machine.visible_devices is not None:
        yield "visible", f"CUDA_VISIBLE_DEVICES={machine.visible_devices}"
    for name, reason in machine.libraries.items():
        title = name if name == "libcuda" else f"core of {name}"
        # Without a driver nobody expects libcuda.
        if not reason or name != "libcuda" or machine.driver:
            yield title, reason or "can be loaded"
    complete = [extra for extra, missing in machine.missing.items() if not missing]
    yield "extras", ", ".join(complete) or "none"
    for extra, missing in machine.missing.items():
        if missing:
            yield f"no {extra}", f"needs {', '.join(missing)}"
    targets = ["cuda"] if machine.visible else []
    targets += ["host"] if machine.torch else []
    able = f"bundles of target {' and '.join(targets)}"
    yield "can run", able if targets else "no bundle: there is neither a GPU nor torch"


def _memory(gpu: Gpu) -> str:
    load = gpu.load
    return ", ".join(map(size, (load.memory_used, gpu.memory_free, load.memory_total)))


def _state(gpu: Gpu) -> str:
    load = gpu.load
    words = [f"{load.utilization}% busy"] if load.utilization is not None else []
    words += [f"{load.temperature} C"] if load.temperature is not None else []
    words += [f"{load.power:.0f} W"] if load.power is not None else []
    words += [gpu.compute_mode] if gpu.compute_mode not in (None, "default") else []
    words += ["no persistence"] if gpu.persistence is False else []
    words += [f"MIG, {len(gpu.instances)} devices"] if gpu.mig else []
    words += ["processes not told"] if gpu.processes is None else []
    return ", ".join(words)


def _yes(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "unknown"}[value]
