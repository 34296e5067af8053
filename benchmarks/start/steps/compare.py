"""Replay times of a bundle's graphs and of torch's, alternating. Arguments: model, mode, folder."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("SPAWNED", str(time.time()))

import torch

from benchmarks.start.steps.torch_side import capture
from foundryrt.session import Session

ROUNDS, REPLAYS = 5, 3


def main(name: str, mode: str, folder: Path) -> None:
    session = Session.open(folder / f"{name}.{mode}.fdy")
    session.wait()
    graphs = capture(name, mode == "compile")
    stream = torch.cuda.Stream()

    def timed(launch) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record(stream)
        for _ in range(REPLAYS):
            launch()
        end.record(stream)
        end.synchronize()
        return begin.elapsed_time(end) / REPLAYS

    ratios, ours_ms, torch_ms = {}, {}, {}
    for batch, (graph, _) in graphs.items():
        own = session.graph("decode", batch=batch)

        def launch(graph=graph) -> None:
            with torch.cuda.stream(stream):
                graph.replay()

        pairs = []
        for _ in range(ROUNDS + 1):
            pairs.append((timed(lambda own=own: own.launch(stream.cuda_stream)), timed(launch)))
        pairs = pairs[1:]
        ours_ms[batch] = statistics.median(a for a, _ in pairs)
        torch_ms[batch] = statistics.median(b for _, b in pairs)
        ratios[batch] = statistics.median(a / b for a, b in pairs)
    session.close()
    print(
        json.dumps(
            {
                "replay_ratio": statistics.median(ratios.values()),
                "ratios": ratios,
                "replay_ms": ours_ms,
                "torch_replay_ms": torch_ms,
            }
        )
    )


main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
