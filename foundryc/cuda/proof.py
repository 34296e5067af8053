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
from foundryc.cuda import driver
from foundryc.cuda.graph import RecordedGraph
from foundryrt.bundle.schema import Random
from foundryrt.errors import FoundryError

PLACE = 0x200000000000
"""The base at which bundles are proved: no capture is made there."""
Digests = list[dict[str, str]]
"""Of each graph, the SHA-256 of its outputs by name."""


@dataclass(frozen=True)
class Rehearsal:
    """What the graphs give in the process that captured them.

    Outputs that differ from one run to the next are left out: they cannot be compared. Nor can
    those of graphs that other code captured: who has made them launches them. `written` names the
    foreign regions that graphs wrote to.
    """

    digests: Digests
    written: frozenset[str]


def rehearse(
    graphs: Sequence[RecordedGraph], regions: Iterable[RegionImage], random: Random | None
) -> Rehearsal:
    """Replay every graph twice, each time with all memory as it was at first."""
    images = [(image, _first_bytes(image)) for image in regions if image.name != "weights"]
    runs: list[Digests] = [[], []]
    written: set[str] = set()
    for graph in graphs:
        for digests in runs:
            if graph.torch_graph is None:
                digests.append({})
                continue
            for image, data in images:
                _restore(image, data)
            if random is not None:
                torch.cuda.manual_seed(random.initial_seed)
            graph.replay()
            torch.cuda.synchronize()
            digests.append({output.name: _digest(output.tensor) for output in graph.outputs})
        written |= {image.name for image, data in images if image.owner and _changed(image, data)}
    repeated = [
        {name: digest for name, digest in one.items() if other[name] == digest}
        for one, other in zip(*runs, strict=True)
    ]
    return Rehearsal(repeated, frozenset(written))


def prove(path: Path, wanted: Digests, names: Sequence[str]) -> None:
    """Run the bundle at another base in a process without torch; FoundryError where it differs.

    `names` are the graphs', for the message.
    """
    done = subprocess.run(
        [sys.executable, "-m", "foundryrt.cuda.outputs", str(path), hex(PLACE)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise FoundryError(
            "the bundle was run at another place, to prove it, and failed there:"
            f" {done.stderr.strip()[-2000:]}; capture it with --no-relocate, bound to its place"
        )
    found: Digests = json.loads(done.stdout)
    for graph, own, other in zip(names, wanted, found, strict=True):
        for name, digest in own.items():
            if other[name] != digest:
                raise FoundryError(
                    f"graph {graph}: at another place its output {name!r} is not what it is here;"
                    " capture it with --no-relocate, bound to its place, and report this"
                )


def _first_bytes(image: RegionImage) -> bytes:
    return b"" if image.initial is None else b"".join(image.initial())


def _restore(image: RegionImage, data: bytes) -> None:
    if data:
        driver.call("cuMemcpyHtoD", image.base, data, len(data), about=image.name)
    if image.size > len(data):
        end = image.base + len(data)
        driver.call("cuMemsetD8", end, 0, image.size - len(data), about=image.name)


def _changed(image: RegionImage, data: bytes) -> bool:
    now = bytearray(image.size)
    driver.call("cuMemcpyDtoH", now, image.base, image.size, about=image.name)
    return now != data.ljust(image.size, b"\0")


def _digest(tensor: torch.Tensor) -> str:
    data = tensor.detach().contiguous().view(-1).view(torch.uint8).cpu().numpy()
    return hashlib.sha256(data.data).hexdigest()
