"""Which rank this process is, where torchrun, Slurm or MPI started the same command several times.

Imports little: a command asks before it imports anything else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

from foundryrt.errors import UsageError


@dataclass(frozen=True)
class Place:
    """Rank `rank` of `world`, all on this node, as `launcher` says; they meet at `meeting`."""

    rank: int
    world: int
    launcher: str
    meeting: str


@dataclass(frozen=True)
class _Launcher:
    """Names of its variables; `job` tells one start of the ranks from another."""

    name: str
    rank: str
    world: str
    local_world: str
    nodes: tuple[str, ...]
    job: tuple[str, ...]


# The innermost first: torchrun may run within a step of Slurm, and Slurm may speak PMI.
_LAUNCHERS = (
    _Launcher(
        "torchrun", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", (),
        ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"),
    ),
    _Launcher(
        "Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE",
        (), ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"),
    ),
    _Launcher(
        "Slurm", "SLURM_PROCID", "SLURM_NTASKS", "", ("SLURM_STEP_NUM_NODES", "SLURM_NNODES"),
        ("SLURM_JOB_ID", "SLURM_STEP_ID"),
    ),
    _Launcher("MPI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS", (), ()),
)  # fmt: skip


def place(environment: Mapping[str, str]) -> Place | None:
    """Where a launcher has put this process; None where none started several.

    UsageError for ranks on several nodes, and for variables that contradict each other.
    """
    for launcher in _LAUNCHERS:
        if launcher.rank not in environment or launcher.world not in environment:
            continue
        if launcher.name == "Slurm" and not environment.get("SLURM_STEP_ID", "").isdigit():
            continue  # the script of a job, of which there is one
        rank, world = (_number(environment, name) for name in (launcher.rank, launcher.world))
        if world == 1:
            continue
        if not rank < world:
            raise UsageError(
                f"{launcher.name} says rank {rank} of {world}: {launcher.rank} must be below"
                f" {launcher.world}"
            )
        _refuse_nodes(launcher, environment, world)
        return Place(rank, world, launcher.name, _meeting(launcher, environment))
    return None


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment[name]
    if not value.isascii() or not value.isdigit() or len(value) > 6:
        raise UsageError(f"{name}={value}: a launcher of several ranks sets it to a whole number")
    return int(value)


def _refuse_nodes(launcher: _Launcher, environment: Mapping[str, str], world: int) -> None:
    here = environment.get(launcher.local_world, str(world))
    nodes = next((environment[name] for name in launcher.nodes if name in environment), "1")
    if here != str(world) or nodes != "1":
        raise UsageError(
            f"{launcher.name} put the {world} ranks on several nodes: memory is shared by the GPUs"
            " of one node only; start all ranks on one (docs/tensor-parallel.md)"
        )


def _meeting(launcher: _Launcher, environment: Mapping[str, str]) -> str:
    """A name that the ranks of one start have in common, and no other process of this user."""
    job = [environment[name] for name in launcher.job if name in environment]
    # Where the launcher has no number for it, its process on this node stands for it.
    words = [launcher.name, *(job or [str(_started_by(launcher.rank))]), str(os.getuid())]
    return f"foundryrt-{hashlib.sha256(repr(words).encode()).hexdigest()[:24]}"


def _started_by(rank: str) -> int:
    """The nearest ancestor that is no rank: each rank may be started by a script of its own."""
    process = os.getppid()
    with contextlib.suppress(OSError):
        while f"\0{rank}=" in f"\0{_of_process(process, 'environ')}":
            process = int(_of_process(process, "stat").rpartition(")")[2].split()[1])
    return process


def _of_process(process: int, what: str) -> str:
    with open(f"/proc/{process}/{what}", encoding="utf-8", errors="replace") as file:
        return file.read()
