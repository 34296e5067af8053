"""Which rows of prompts go into prefill passes, which drafts into verify passes, oldest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from parse_runtime.signature.plan import ALIGNMENT
from parse_runtime.signature.sizes import PrefillSize, SharedSize

VERIFY = "verify"
"""The kind of pass that judges drafts."""
_FLAT = 256
"""A pass of fewer rows takes about as long as one of these: it is the weights that are read."""


@dataclass(frozen=True)
class Due:
    """A prefill or a verification that waits."""

    kind: str
    """The model of a prefill, or VERIFY."""
    rows: int
    """What is left of it."""
    shared: Sequence[SharedSize] = ()
    """Verify passes of several drafts that a verification may be in, rising."""


@dataclass(frozen=True)
class Pass:
    """A pass of one `kind`."""

    kind: str
    shares: Mapping[int, int]
    """How many rows it computes, by the number of the one that waits,"""
    ends: frozenset[int]
    """and those that it computes the last rows of."""


def pack(
    left: Sequence[int], sizes: Sequence[PrefillSize], room: float = inf
) -> tuple[PrefillSize, list[int]]:
    """The pass for prompts of which so many rows are left, and how many of each it takes.

    All but the last of them are taken to their end. A pass has up to `room` rows, unless even the
    smallest has more. It is the largest one that is filled, or that costs no more than several of
    the next smaller size.
    """
    possible = [size for size in sizes if size.rows <= room] or sizes[:1]
    for smaller, size in zip(reversed(possible[:-1]), reversed(possible), strict=False):
        taken = _taken(left, size)
        used = sum(map(_aligned, taken[:-1])) + taken[-1]
        several = -(-used // smaller.rows)
        if used == size.rows or (several > 1 and _cost(size) <= several * _cost(smaller)):
            return size, taken
    return possible[0], _taken(left, possible[0])


def holding(rows: Sequence[int], sizes: Sequence[PrefillSize]) -> PrefillSize:
    """The smallest pass that takes all of the chunks; ValueError where there is none."""
    for size in sizes:
        if len(rows) <= size.prompts and _taken(rows, size) == list(rows):
            return size
    raise ValueError(f"no prefill pass of {list(sizes)} takes chunks of {list(rows)} rows")


def sharing(due: Mapping[int, Due], room: float = inf) -> tuple[SharedSize, list[int]] | None:
    """The verify pass that the first of those that wait shares with most others, and which take it.

    None where no pass of up to `room` rows costs less than a pass for each. They go in whole; where
    one has no room, a younger one may.
    """
    first, most = next(iter(due)), 1
    found: tuple[SharedSize, list[int]] | None = None
    for size in due[first].shared:
        taken = _together(due, size)
        alone = sum(max(due[number].rows, _FLAT) for number in taken)
        pays = size.rows <= room and max(size.rows, _FLAT) <= alone
        if pays and len(taken) > most and taken[0] == first:
            found, most = (size, taken), len(taken)
    return found


def shared_by(due: Mapping[int, Due]) -> SharedSize:
    """The smallest verify pass that takes all of them; ValueError where there is none."""
    for size in next(iter(due.values())).shared:
        if len(_together(due, size)) == len(due):
            return size
    raise ValueError(f"no verify pass takes drafts of {[one.rows for one in due.values()]} rows")


def _together(due: Mapping[int, Due], size: SharedSize) -> list[int]:
    """Verifications that a pass takes, until it is full."""
    taken: list[int] = []
    used = 0
    for number, one in due.items():
        if size in one.shared and used + one.rows <= size.rows and len(taken) < size.drafts:
            taken.append(number)
            used += _aligned(one.rows)
    return taken


def room_for(due: Sequence[Due], largest: int, others: bool) -> int:
    """Rows of a step's passes: as many as the largest pass has.

    A quarter of it where a prompt comes first, less is due, and `others` wait for the step to end;
    passes of up to _FLAT rows would gain these nothing.
    """
    if not others or not due or due[0].kind == VERIFY or sum(one.rows for one in due) >= largest:
        return largest
    return min(max(largest // 4, _FLAT), largest)


def plan(due: Sequence[Due], sizes: Mapping[str, Sequence[PrefillSize]], room: int) -> list[Pass]:
    """The passes of one step: those that wait longest, as long as there is room for their rows.

    There is at least one, whatever its size. A prefill takes younger prompts of its model along, a
    verification younger drafts.
    """
    left = {number: one.rows for number, one in enumerate(due)}
    passes: list[Pass] = []
    while left:
        first = next(iter(left))
        kind = due[first].kind
        if kind == VERIFY:
            waiting = {n: due[n] for n in left if due[n].kind == VERIFY}
            shared = sharing(waiting, room)
            rows = shared[0].rows if shared else left[first]
            shares = {number: left[number] for number in (shared[1] if shared else [first])}
        else:
            together = [number for number in left if due[number].kind == kind]
            size, taken = pack([left[number] for number in together], sizes[kind], room)
            rows, shares = size.rows, dict(zip(together, taken, strict=False))
        if passes and rows > room:
            break
        for number, count in shares.items():
            left[number] -= count
        ends = frozenset(number for number in shares if not left[number])
        left = {number: count for number, count in left.items() if number not in ends}
        passes.append(Pass(kind, shares, ends))
        room -= rows
    return passes


def _taken(left: Sequence[int], size: PrefillSize) -> list[int]:
    """Rows of each prompt, until the pass is full."""
    taken: list[int] = []
    used = 0
    for rows in left[: size.prompts]:
        if used >= size.rows:
            break
        taken.append(min(rows, size.rows - used))
        used += _aligned(taken[-1])
    return taken


def _aligned(rows: int) -> int:
    return -(-rows // ALIGNMENT) * ALIGNMENT


def _cost(size: PrefillSize) -> int:
    return max(size.rows, _FLAT)
