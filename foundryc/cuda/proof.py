"""The proof of a bundle: its graphs, run from the file somewhere else, give what torch's gave here.

Before each graph all memory is as it was when the capture began, on both sides, so that no graph
depends on another one.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from foundryc.capture import RegionImage
from foundryc.cuda.graph import RecordedGraph
from foundryc.cuda.rerun import Rerun
from foundryrt.bundle.results import is_result
from foundryrt.bundle.schema import Random, Tensor
from foundryrt.errors import FoundryError

PLACE = 0x200000000000
"""The base at which bundles are proved: no capture is made there."""
REMEDY = "capture it with --no-relocate, bound to its place"
Digests = list[dict[str, str]]
"""Of each graph, the SHA-256 of its outputs by name."""


class Unproved(FoundryError):
    """A graph, by number, fails at another place or gives something else there."""

    def __init__(self, message: str, graph: int) -> None:
        super().__init__(message)
        self.graph = graph


@dataclass(frozen=True)
class Rehearsal:
    """What the graphs give in the process that captured them.

    Outputs that differ from one run to the next are left out: they cannot be compared. Nor can
    those of graphs that other code captured: who has made them launches them. `written` names the
    foreign regions that graphs wrote to.
    """

    digests: Digests
    written: frozenset[str]

    def left_out(self, tensors: Sequence[Tensor]) -> list[int]:
        """Which of the tensors, by number, are outputs of graphs that cannot be compared."""
        return [
            number
            for number, tensor in enumerate(tensors)
            if is_result(tensor) and tensor.name not in self.digests[tensor.graph]
        ]


def rehearse(
    graphs: Sequence[RecordedGraph], regions: Iterable[RegionImage], random: Random | None
) -> Rehearsal:
    """Replay every graph twice, each time with all memory as it was at first."""
    rerun = Rerun(regions, random)
    repeated: Digests = []
    written: set[str] = set()
    for graph in graphs:
        if graph.torch_graph is None:
            repeated.append({})
            continue
        one, other = (_outputs(rerun, graph) for _ in range(2))
        repeated.append({name: digest for name, digest in one.items() if other[name] == digest})
        written |= rerun.written()
    return Rehearsal(repeated, frozenset(written))


def prove(path: Path, wanted: Digests, names: Sequence[str]) -> None:
    """Run the bundle at another base in a process without torch; Unproved where it differs.

    `names` are the graphs', for the message. FoundryError where no graph could be run.
    """
    done = run_there("foundryrt.cuda.outputs", path)
    found: Digests = [json.loads(line) for line in done.stdout.splitlines()]
    for number, (own, other) in enumerate(zip(wanted, found, strict=False)):
        for name, digest in own.items():
            if other[name] != digest:
                raise Unproved(
                    f"graph {names[number]}: at another place its output {name!r} is not what it is"
                    " here",
                    number,
                )
    if done.returncode:
        if len(found) == len(names):
            raise FoundryError(f"at another place the bundle {what_failed(done)}; {REMEDY}")
        raise Unproved(
            f"graph {names[len(found)]}: before it had run at another place, the bundle"
            f" {what_failed(done)}",
            len(found),
        )


def run_there(module: str, path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a module of foundryrt on the bundle at the other base."""
    return subprocess.run(
        [sys.executable, "-m", module, str(path), hex(PLACE), *map(str, arguments)],
        capture_output=True,
        text=True,
    )


def what_failed(done: subprocess.CompletedProcess[str]) -> str:
    """How a process that ran there ended."""
    said = done.stderr.strip()[-2000:]
    return f"failed (exit status {done.returncode})" + (f": {said}" if said else "")


def _outputs(rerun: Rerun, graph: RecordedGraph) -> dict[str, str]:
    rerun.run(graph)
    return {output.name: _digest(output.tensor) for output in graph.outputs}


def _digest(tensor: torch.Tensor) -> str:
    data = tensor.detach().contiguous().view(-1).view(torch.uint8).cpu().numpy()
    return hashlib.sha256(data.data).hexdigest()
