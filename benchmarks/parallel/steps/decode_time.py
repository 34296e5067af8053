"""Starts a bundle of decode_capture.py, or of eight_capture.py; times steps of one with few graphs.

Arguments: bundle, devices.
"""

from __future__ import annotations

import os
import sys
import time

SPAWNED = float(os.environ["SPAWNED"])
path, devices = sys.argv[1], [int(one) for one in sys.argv[2].split(",")]

# As `foundryrt run` begins: the other ranks, then its own driver, then what it imports.
from foundryrt.ranks.spawn import spawn  # noqa: E402

spawned = spawn(path, len(devices), devices, fork=True) if len(devices) > 1 else None

from foundryrt.cuda import early  # noqa: E402

early.begin(devices[0])

import json  # noqa: E402
from operator import itemgetter  # noqa: E402
from statistics import median  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from benchmarks.parallel.steps.decode_sizes import START, sizes  # noqa: E402
from foundryrt import Session  # noqa: E402
from foundryrt.ranks.followers import Followers  # noqa: E402
from foundryrt.timeline import mark, steps  # noqa: E402
from parse_runtime.signature.passes import ModelSignature  # noqa: E402

mark("imports")
LAUNCHES, TRIES = 20, 9


def main() -> None:
    first = ("target.decode", {"batch": 1})
    followers = Followers.of(spawned) if spawned else None
    session = Session.open(path, first=first, device=devices[0], followers=followers)
    graph = session.graph("target.decode", batch=1)
    graph.launch()
    session.synchronize()
    marks: dict[str, Any] = {"first_launch_ms": (time.time() - SPAWNED) * 1e3}
    graph.read("token")
    marks["first_token_ms"] = (time.time() - SPAWNED) * 1e3
    session.wait()
    marks["all_ready_ms"] = (time.time() - SPAWNED) * 1e3
    own = sizes(session.settings["model"])
    signature, step_ms = ModelSignature("target", own, False, True), {}
    for batch in () if session.settings["many"] else own.batches:
        inputs = signature.decode(batch).inputs
        graph, times = session.graph("target.decode", batch=batch), []
        session.write(inputs["slots"].name, np.arange(batch, dtype=np.int64))
        for _ in range(TRIES):
            plan = np.full((5, batch), START, np.int64)
            plan[0] = 1
            session.write(inputs["plan"].name, plan)
            session.synchronize()
            began = time.perf_counter()
            for _ in range(LAUNCHES):
                graph.launch()
            session.synchronize()
            times.append((time.perf_counter() - began) / LAUNCHES * 1e3)
        step_ms[str(batch)] = median(times[1:])
    backend = session._opened
    timeline = [
        *steps().items(), *(backend._own.timeline if followers else backend.timeline),
    ]  # fmt: skip
    clock = time.time() - time.perf_counter() - SPAWNED
    marks["timeline_ms"] = {
        step: (at + clock) * 1e3 for step, at in sorted(timeline, key=itemgetter(1))
    }
    marks["others_ms"] = {
        str(rank): {step: (at + clock) * 1e3 for step, at in own}
        for rank, own in (followers.timelines if followers else {}).items()
    }
    host = session._bundle.manifest.target == "host"
    session.close()
    assert host or "torch" not in sys.modules
    print(json.dumps(marks | {"step_ms": step_ms}))


main()
