"""Where a decode step's time goes on rank 0. Arguments: bundle of decode_capture.py, devices.

Kernels start before those ahead of them have ended, so a kernel's time is that from the end of the
one ahead of it to its own end. A kernel is told by its name and that of the one ahead of it.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.parallel.steps.decode_sizes import START, sizes
from foundryrt import Session
from foundryrt.ranks.followers import Followers
from parse_runtime.signature.passes import ModelSignature

path, devices = sys.argv[1], [int(one) for one in sys.argv[2].split(",")]
STEPS = 20


def main() -> None:
    torch.cuda.set_device(devices[0])
    followers = Followers.start(path, len(devices), devices) if len(devices) > 1 else None
    session = Session.open(path, device=devices[0], followers=followers)
    session.wait()
    signature = ModelSignature("target", sizes(session.settings["model"]), False, True)
    found = {}
    for batch in signature.sizes.batches:
        inputs = signature.decode(batch).inputs
        session.write(inputs["slots"].name, np.arange(batch, dtype=np.int64))
        plan = np.full((5, batch), START, np.int64)
        plan[0] = 1
        session.write(inputs["plan"].name, plan)
        graph = session.graph("target.decode", batch=batch)
        graph.launch()
        session.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(STEPS):
                graph.launch()
            session.synchronize()
        found[str(batch)] = kernels(profiler.events())
    session.close()
    print(json.dumps(found))


def kernels(events: Any) -> dict[str, dict[str, float]]:
    """Of a step: by kernel, how many there are, and microseconds of all of them and of one."""
    spans = sorted(
        (event.time_range.end, event.time_range.start, event.name.partition("(")[0])
        for event in events
        if event.device_type.name == "CUDA"
    )
    took: dict[str, list[float]] = defaultdict(list)
    for (before, _, ahead), (end, _, name) in pairwise(spans):
        took[f"{name[-40:]} after {ahead[-40:]}"].append(end - before)
    return {
        name: {"count": len(all_of) / STEPS, "us": sum(all_of) / STEPS,
               "each": sum(all_of) / len(all_of)}
        for name, all_of in sorted(took.items(), key=lambda item: -sum(item[1]))[:24]
    }  # fmt: skip


main()
