"""Times the graphs of exchange_capture.py on all ranks. Arguments: bundle, devices."""

from __future__ import annotations

import json
import sys
import time
from statistics import median

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
print(json.dumps({"us": found}))
