"""A bundle takes the place of another while decode steps run. Arguments: model, mode, folder.

The bundle's own copy of itself takes its place, over its weights and state: another base, graphs,
inputs and outputs of its own. As in a server, it does so once the graph is ready that eight
sequences need, and the one that stands in for it; the rest is made while it runs.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from benchmarks.start.steps.model import digest, plan
from foundryrt.bundle.reader import Bundle
from foundryrt.cuda.device import open_device
from foundryrt.cuda.driver import driver
from foundryrt.session import Session
from foundryrt.undo import Undo
from parse_runtime.graphs.first import first_graphs

BATCH = 8
SHARED = ("weights", "state")
PAGE = 2 << 20
SECONDS = 2.0
"""How long steps run before and after the switch."""


class Steps:
    """Launches one after another on a thread, each waited for; `session` may change."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.done: list[tuple[float, Session]] = []
        """When each launch was done, and whose it was."""
        self._end = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Steps:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end = True
        self._thread.join()

    def _run(self) -> None:
        while not self._end:
            session = self.session
            session.graph("decode", batch=BATCH).launch()
            session.synchronize()
            self.done.append((time.perf_counter(), session))

    def until(self, session: Session) -> float:
        """Wait for the first launch of a session; when it was done."""
        while not self.done or self.done[-1][1] is not session:
            if not self._thread.is_alive():
                raise SystemExit("the steps have ended: see above")
            time.sleep(0.0002)
        return next(at for at, whose in self.done if whose is session)

    def gap(self, start: float, end: float) -> float:
        """Milliseconds, the longest between two launches that were done one after the other."""
        times = [at for at, _ in self.done if start <= at <= end]
        return max(after - before for before, after in pairwise(times)) * 1e3


def region_bytes(path: Path, but: tuple[str, ...] = ()) -> dict[str, int]:
    """Device memory of each region of a bundle that is mapped for it."""
    with Bundle.open(path) as bundle:
        regions = bundle.manifest.regions
    return {r.name: -(-r.size // PAGE) * PAGE for r in regions if r.name not in but}


def with_input(session: Session) -> Session:
    session.tensor(f"plan.{BATCH}").write_bytes(plan(BATCH, 0))
    return session


def logits(session: Session) -> str:
    return digest(session.graph("decode", batch=BATCH).tensor("logits").read_bytes())


def main(name: str, mode: str, folder: Path) -> dict[str, Any]:
    path = folder / f"{name}.{mode}.fdy"
    with Bundle.open(path) as bundle:
        needs = replace(bundle.manifest.requirements, memory=0)
    # The context is there before: it is in no figure.
    with Undo() as undo:
        device = open_device(driver(), 0, needs, undo)
        free = [device.free_memory()]
        x = with_input(Session.open(path))
        x.wait()
        needed, order = first_graphs(x.graphs, BATCH)
        free.append(device.free_memory())
        with Steps(x) as steps:
            time.sleep(SECONDS)
            asked = time.perf_counter()
            y = x.beside(path, lambda own, other: SHARED, first=lambda _: order)
            opened = time.perf_counter()
            seen: list[tuple[int, float]] = []
            y.prepare(needed, lambda ready, _: seen.append((ready, time.perf_counter())))
            prepared, ready_then = time.perf_counter(), y.ready()
            spent_then = y._opened.graphs.spent
            steps.session = with_input(y)
            first = steps.until(y)
            y.wait()
            ready = time.perf_counter()
            device.enter()
            free.append(device.free_memory())
            expected = logits(x)
            closing = time.perf_counter()
            x.close()
            closed = time.perf_counter()
            time.sleep(SECONDS)
            ended = time.perf_counter()
        same, timeline = logits(y) == expected, y.timeline
        spent = y._opened.graphs.spent
        y.close()
    own = region_bytes(path, SHARED)
    graphs = [
        free[0] - free[1] - sum(region_bytes(path).values()), free[1] - free[2] - sum(own.values())
    ]  # fmt: skip
    before = [at for at, _ in steps.done if at < asked]
    return {
        "identical": same,
        "ms": (first - asked) * 1e3,
        "open_ms": (opened - asked) * 1e3,
        "needed_ms": (prepared - opened) * 1e3,
        "needed_graphs": len(needed),
        "ready_at_swap": ready_then,
        "ready_ms": [[ready, (at - asked) * 1e3] for ready, at in seen],
        "spent_at_swap_ms": {step: seconds * 1e3 for step, seconds in spent_then.items()},
        "all_ready_ms": (ready - asked) * 1e3,
        "timeline_ms": {step: (at - asked) * 1e3 for step, at in timeline},
        "spent_ms": {step: seconds * 1e3 for step, seconds in spent.items()},
        "close_ms": (closed - closing) * 1e3,
        "step_ms": statistics.median(b - a for a, b in pairwise(before)) * 1e3,
        "gap_ms": steps.gap(asked - 0.1, ended),
        "gaps_ms": {
            "until the swap": steps.gap(asked - 0.1, first),
            "until all are ready": steps.gap(first - 0.1, ready),
            "while the first is closed": steps.gap(closing - 0.1, ended),
        },
        "gap_alone_ms": steps.gap(asked - SECONDS / 2, asked),
        "extra_bytes": free[1] - free[2],
        "own_region_bytes": own,
        "region_bytes": region_bytes(path),
        "graph_bytes": graphs,
        "graphs_only": graphs[1] <= 1.1 * graphs[0] + 16 * PAGE,
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
