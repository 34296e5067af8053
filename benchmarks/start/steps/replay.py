"""A fresh process without torch. Arguments: model, mode, folder.

`verify` compares every graph; an address is where its memory must lie.
"""

from __future__ import annotations

import os
import time

SPAWNED = float(os.environ["SPAWNED"])

from foundryrt.cuda import early  # noqa: E402

early.begin()

import json  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from benchmarks.start.steps.model import STEPS, batches, digest, plan  # noqa: E402
from foundryrt.session import Session  # noqa: E402


def main(name: str, mode: str, folder: Path, verify: bool, base: int | None) -> None:
    marks = {"imports": time.time()}
    path = folder / f"{name}.{mode}.fdy"
    clock = time.time() - time.perf_counter()
    first = ("decode", {"batch": 1})
    session = Session.open(path, first=first, load_weights=False, base=base)
    marks["open"] = time.time()
    session.tensor("plan.1").write_bytes(plan(1, 0))
    graph = session.graph("decode", batch=1)
    graph.launch()
    graph.tensor("logits").read_bytes()
    marks["first_launch"] = time.time()
    ready = []
    session.wait(lambda count, total: ready.append((time.time() - SPAWNED, count)))
    marks["all_ready"] = time.time()
    spent = session._opened.graphs.spent
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    session.load_weights()
    marks["weights"] = time.time()
    session.load_weights(check=False)
    marks["weights_unchecked"] = time.time()
    manifest = session._bundle.manifest
    timeline = {step: at + clock - SPAWNED for step, at in session.timeline}
    read = sum(source.length for source in manifest.weights.sources)
    report = {
        "marks_ms": {mark: (at - SPAWNED) * 1e3 for mark, at in marks.items()},
        "timeline_ms": {step: at * 1e3 for step, at in timeline.items()},
        "ready_ms": [[at * 1e3, count] for at, count in ready],
        "spent_ms": {step: time * 1e3 for step, time in spent.items()},
        "nodes": sum(manifest.templates[g.template].nodes for g in manifest.graphs),
        "graphs": len(manifest.graphs),
        "templates": len(manifest.templates),
        "bundle_bytes": path.stat().st_size,
        "kernel_bytes": sum(session._bundle.sections[k.section].raw for k in manifest.kernels),
        "kernels": len(manifest.kernels),
        "peak_rss_mb": memory,
        "weights_gbps": read / (marks["weights"] - marks["all_ready"]) / 1e9,
        "weights_unchecked_gbps": read / (marks["weights_unchecked"] - marks["weights"]) / 1e9,
        "torch_imported": "torch" in sys.modules,
    }
    if verify:
        want = json.loads((folder / f"{name}.{mode}.json").read_text())
        cache = session.tensor("cache")
        cache.device.enter()
        cache.device.cuda("cuMemsetD8Async", cache.address, 0, cache.extent, cache.stream)
        wrong = []
        for batch in batches(name):
            for step in range(STEPS):
                session.tensor(f"plan.{batch}").write_bytes(plan(batch, step))
                graph = session.graph("decode", batch=batch)
                graph.launch()
                if digest(graph.tensor("logits").read_bytes()) != want[f"{batch}.{step}"]:
                    wrong.append(f"{batch}.{step}")
        report |= {"identical": not wrong, "different": wrong}
    session.close()
    print(json.dumps(report))


bases = [int(word, 16) for word in sys.argv[4:] if word.startswith("0x")]
main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), "verify" in sys.argv, *(bases or [None]))
