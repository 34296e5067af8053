"""Make the golden bundles of the current format version; those that exist are never replaced.

    python artifacts/make.py

A golden bundle is what a user of this version has on disk: later versions must read it. The host
program counts in integers, so its results are exact on every machine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from foundryc.recorder import Recorder
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import FORMAT_VERSION

HERE = Path(__file__).parent


def host_steps(path: Path) -> None:
    """Graphs step(batch=1) and step(batch=4): total += sum of x over the batch; y = x w + total."""
    with Recorder(target="host", workload="golden", settings={"width": 4}) as recorder:
        total = recorder.register("total", torch.zeros(4, dtype=torch.int64), role="state")
        weight = recorder.register("weight", torch.arange(16).reshape(4, 4), role="weight")
        for batch in (1, 4):
            x = torch.zeros(batch, 4, dtype=torch.int64)
            x = recorder.register(f"x{batch}", x, role="input")
            with recorder.graph("step", batch=batch) as graph:
                total.add_(x.sum(0))
                graph.output("y", x @ weight + total)
        recorder.attach("note.txt", b"golden")
        recorder.save(path)


def cuda_sample(path: Path) -> None:
    """Every part that a cuda bundle may have, its kernel a few bytes that no driver would load."""
    sys.path.insert(0, str(HERE.parent))
    from tests.attacks.samples import parts

    parts().write(path)


def main() -> None:
    """Write what is missing, and the index."""
    index = HERE / "index.json"
    known = json.loads(index.read_text()) if index.exists() else {}
    for name, make in (("host-steps", host_steps), ("cuda-sample", cuda_sample)):
        path = HERE / f"v{FORMAT_VERSION}-{name}.fdy"
        if path.exists():
            continue
        make(path)
        with Bundle.open(path) as bundle:
            known[path.name] = {
                "format_version": FORMAT_VERSION,
                "target": bundle.manifest.target,
                "holds": (make.__doc__ or "").strip(),
                "digest": bundle.digest.hex(),
            }
    index.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
