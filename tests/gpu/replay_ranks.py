"""Launches the graphs of capture_ranks.py on all ranks. Arguments: bundle, devices, rank to kill.

Prints the largest error of each graph relative to the largest value, and, where a rank is killed,
what the session says of it and after how many seconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import numpy as np

from foundryrt import Session
from foundryrt.errors import RankLost
from foundryrt.ranks.followers import Followers

STEPS = 3
UNEVEN = 774
"""As in capture_ranks.py."""


def expected(name: str, count: int, given: dict[str, np.ndarray], world: int) -> dict:
    """In float64."""
    parts = np.stack([given["x"][:count].astype(np.float64) + rank for rank in range(world)])
    if name == "uneven":
        parts = parts[:, 0, :UNEVEN]
        return {"gathered": parts, "sum": parts.sum(0)}
    if name == "gather":
        return {"gathered": parts}
    if name == "reduce":
        return {"sum": parts.sum(0)}
    if name in ("many", "chain"):
        return {"rows": parts.mean(0)}
    total = parts.sum(0) + given["residual"][:count]
    scale = 1 / np.sqrt((total**2).mean(-1, keepdims=True) + 1e-6)
    return {"total": total, "normed": total * scale * given["weight"]}


def main(path: str, devices: list[int], killed: int) -> None:
    assert "torch" not in sys.modules
    random, errors = np.random.default_rng(0), {}
    world = len(devices)
    with (
        Followers.start(path, world, devices) as followers,
        Session.open(path, followers=followers) as session,
    ):
        session.wait()
        names = {t.name: t.shape for t in session.tensors if t.role == "input"}
        for _ in range(STEPS):
            given = {n: random.standard_normal(s).astype(np.float32) for n, s in names.items()}
            given["x"][:, ::7] = 0
            for name, values in given.items():
                session.write(name, values)
            for name, key in session.graphs:
                graph = session.graph(name, **key)
                graph.launch()
                for output, wanted in expected(name, key["rows"], given, world).items():
                    found = graph.read(output)
                    graph.launch()
                    assert found.tobytes() == graph.read(output).tobytes(), (name, key)
                    error = float(np.abs(found - wanted).max() / np.abs(wanted).max())
                    title = f"{name} {key['dtype']}"
                    errors[title] = max(errors.get(title, 0.0), error)
        report = {"errors": errors, "steps": STEPS}
        if killed:
            process = followers._processes[killed].pid
            os.kill(process, signal.SIGKILL)
            began = time.monotonic()
            try:
                while True:
                    graph.launch()
                    graph.read(output)
            except RankLost as error:
                report |= {"lost": str(error), "seconds": time.monotonic() - began}
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], [int(n) for n in sys.argv[2].split(",")], int(sys.argv[3]))
