"""Starts a rank's share in a process without torch. Argument: bundle."""

from __future__ import annotations

import os
import time

SPAWNED = float(os.environ["SPAWNED"])

from foundryrt.cuda import early  # noqa: E402

early.begin()

import json  # noqa: E402
import sys  # noqa: E402

from foundryrt.session import Session  # noqa: E402


def main(path: str) -> None:
    session = Session.open(path, first=("target.decode", {"batch": 1}))
    graph = session.graph("target.decode", batch=1)
    graph.launch()
    session.synchronize()
    launched = time.time()
    session.wait()
    ready = time.time()
    manifest = session._bundle.manifest
    context = dict(session.timeline)["context"] + time.time() - time.perf_counter()
    report = {
        "first_launch_ms": (launched - SPAWNED) * 1e3,
        "all_ready_s": ready - SPAWNED,
        "graphs_s": ready - context,
        "graphs": len(manifest.graphs),
        "templates": len(manifest.templates),
        "kernels": len(manifest.kernels),
        "nodes": sum(manifest.templates[g.template].nodes for g in manifest.graphs),
    }
    session.close()
    assert "torch" not in sys.modules
    print(json.dumps(report))


main(sys.argv[1])
