"""The capture side of workloads, and which of them a command's options ask for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from foundryrt import options, workload
from foundryrt.errors import FoundryError, UsageError

if TYPE_CHECKING:
    from foundryc.recorder import Recorder

GROUP = "foundryc.workloads"


@runtime_checkable
class CaptureWorkload(Protocol):
    """What `foundryc capture` needs of a workload."""

    __name__: str

    Settings: type[Any]
    """A frozen dataclass of numbers, texts and booleans; its fields are command-line options, and
    the bundle states them."""

    def record(self, recorder: Recorder, settings: Any) -> None:
        """Register the workload's tensors and record its graphs, each once."""


class Declarations(Protocol):
    """What a workload's module may say of itself besides; each is optional."""

    BY_NAME: bool
    """Its options do not tell that it is meant: it is captured by `--workload` only."""
    PACKAGES: Sequence[str]
    """Packages beside its own whose sources a cache key counts."""
    ARCHITECTURES: Collection[str]
    """Of GPUs that it has kernels for: `--arch` takes them, and it records a build for each."""
    LIBRARIES: Sequence[str]
    """Distributions whose versions a cache key counts, beside torch and CUDA's."""


@runtime_checkable
class WithInputs(Protocol):
    """A workload whose settings name files: a cache key counts their contents."""

    def inputs(self, settings: Any) -> Mapping[str, Sequence[Path]]:
        """By setting, the files that determine the bundle; UsageError where one is missing."""


@runtime_checkable
class WithFit(Protocol):
    """A workload that can choose its own sizes."""

    def fitted(self, given: Mapping[str, Any], target: str) -> Mapping[str, Any]:
        """Values of settings that `given` leaves open, for its files, the target and this machine.

        They depend on what the machine has, not on what is free just now: a key counts them.
        """


def find(name: str) -> CaptureWorkload:
    """The capture side of workload `name` (foundryrt/workload.py says how it is found)."""
    module = workload.find(GROUP, name)
    if not isinstance(module, CaptureWorkload):
        raise UsageError(
            f"workload {name!r} cannot be captured: it needs Settings and"
            " record(recorder, settings)"
        )
    return module


def chosen_by(arguments: Sequence[str]) -> str:
    """The installed workload that alone takes one of the options in `arguments`.

    UsageError where they point at none or at several.
    """
    given = options.named(arguments)
    takes: dict[str, set[str]] = {}
    unusable: list[str] = []
    for name in workload.names(GROUP):
        try:
            module = find(name)
            if not getattr(module, "BY_NAME", False):
                takes[name] = options.names(module.Settings)
        except FoundryError as error:
            unusable.append(str(error))
    if unusable and not any(given & fields for fields in takes.values()):
        raise FoundryError("; ".join(unusable))
    own = {
        name: sorted(given & fields - set().union(*(takes[n] for n in takes if n != name)))
        for name, fields in takes.items()
    }
    chosen = [name for name, fields in own.items() if fields]
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        found = ", ".join(f"{options.flag(own[name][0])} is of {name}" for name in chosen)
        raise UsageError(f"the options are of several workloads ({found}); name one by --workload")
    listed = " or ".join(f"--workload {name}" for name in takes) or "--workload FILE.py"
    unknown = ", ".join(map(options.flag, sorted(given)))
    reason = f"no installed workload alone takes {unknown}" if given else "no option tells it"
    raise UsageError(f"which workload? {reason}; say {listed} (see `foundryc workloads`)")
