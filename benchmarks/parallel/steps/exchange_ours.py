"""Times the graphs of exchange_capture.py on all ranks. Arguments: bundle, devices.

All ranks have the same small whole numbers: sums are exact, and are looked at.
"""

from __future__ import annotations

import json
import sys
import time
from statistics import median

import numpy as np

from benchmarks.parallel.steps.sizes import COUNT, LAUNCHES, TRIES
from foundryrt import Session
from foundryrt.ranks.followers import Followers

path, devices = sys.argv[1], [int(one) for one in sys.argv[2].split(",")]
found = {}
with (
    Followers.start(path, len(devices), devices) as followers,
    Session.open(path, followers=followers) as session,
):
    session.wait()
    shape = session.read("x").shape
    numbers = np.random.default_rng(0).integers(-8, 9, shape, np.int8).astype(np.float32)
    # The upper half of such a number's bits is all of it as bfloat16, which numpy lacks.
    session.write("x", (numbers.view(np.uint32) >> 16).astype(np.uint16))
    for name, key in session.graphs:
        graph, times = session.graph(name, **key), []
        for _ in range(TRIES):
            session.synchronize()
            began = time.perf_counter()
            for _ in range(LAUNCHES):
                graph.launch()
            session.synchronize()
            times.append((time.perf_counter() - began) / LAUNCHES / COUNT)
        found[f"{name} {key['bytes']}"] = median(times[1:]) * 1e6
        if "reduce" in name:
            sums = (graph.read("sum").astype(np.uint32) << 16).view(np.float32)
            if not np.array_equal(sums, numbers[: len(sums)] * len(devices)):
                raise SystemExit(f"{name} of {key['bytes']} bytes: wrong sums")
print(json.dumps({"us": found}))
