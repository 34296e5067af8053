"""The ranks that a command's arguments ask for, or a launcher has started.

Imports little: the other ranks are started before this process imports what it needs.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # type checkers know it as True; importing typing would delay the driver
if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundryrt.ranks.launcher import Place
    from foundryrt.ranks.spawn import Spawned

LAUNCHED = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_ID", "PMI_SIZE")
"""Variables of what may have started several ranks (foundryrt/ranks/launcher.py)."""
begun: list[Spawned] = []
"""Those that were started before the command's imports."""


class AskedRanks:
    """What `--tp` and `--devices` ask for, or a launcher did.

    What is wrong with it is None here: `foundryrt.ranks.command.others` says so.
    """

    def __init__(
        self, tp: int | None, devices: tuple[int, ...] | None, place: Place | None
    ) -> None:
        self.tp, self.devices, self.place = tp, devices, place

    @classmethod
    def of(cls, words: Sequence[str]) -> AskedRanks:
        """Read off a command's arguments and this process's environment."""
        asked = _value(words, "--tp") or ""
        where = _place() if any(name in os.environ for name in LAUNCHED) else None
        tp = int(asked) if _is_number(asked) else None
        return cls(tp, gpu_numbers(_value(words, "--devices") or ""), where)

    def device(self) -> int | None:
        """The GPU of this process; None where it is not known yet whether it is one of several."""
        if self.place is None:
            return device_of(0, self.devices)
        return None if self.tp is None else device_of(self.place.rank, self.devices)

    def begin(self, bundle: str) -> None:
        """Start the other ranks where no launcher does."""
        if self.tp is None or self.tp < 2 or self.place is not None:
            return
        from foundryrt.errors import FoundryError
        from foundryrt.ranks.spawn import spawn

        try:
            begun.append(spawn(bundle, self.tp, self.devices, fork=True))
        except FoundryError:
            return  # the command finds the same, and says it


def gpu_numbers(text: str) -> tuple[int, ...] | None:
    """GPUs as `--devices` names them; None for what names none."""
    words = text.split(",")
    if not all(map(_is_number, words)):
        return None
    return tuple(map(int, words))


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 4


def device_of(rank: int, devices: tuple[int, ...] | None) -> int:
    """The GPU of a rank, by its number among those that this process sees."""
    if devices is not None and rank < len(devices):
        return devices[rank]
    # A launcher may show each rank its own GPU alone; the ranks say so when they meet.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return 0 if visible and "," not in visible else rank


def _place() -> Place | None:
    from foundryrt.errors import UsageError
    from foundryrt.ranks.launcher import place

    try:
        return place(os.environ)
    except UsageError:
        return None


def _value(words: Sequence[str], name: str) -> str | None:
    """What follows the option's last place."""
    found = None
    for index, word in enumerate(words):
        if word == name and index + 1 < len(words):
            found = words[index + 1]
        elif word.startswith(f"{name}="):
            found = word.partition("=")[2]
    return found
