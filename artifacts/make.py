"""Make the golden bundles of the current format version; those that exist are never replaced.

    python artifacts/make.py

A golden bundle is what a user of this version has on disk: later versions must read it. The host
program counts in integers, so its results are exact on every machine.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.numpy import save_file

from foundryc.capture import Capture, RegionImage
from foundryc.recorder import Recorder
from foundryc.template import GraphTable
from foundryc.weights import TensorFile, whole
from foundryc.write import write_bundle
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import (
    FORMAT_VERSION,
    Function,
    NodeKind,
    Requirements,
    Tensor,
    Variable,
)
from foundryrt.bundle.tables import NO_FUNCTION

BASE = 0x600000000000
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
    """All that foundryc writes into a cuda bundle; no driver would load its kernels."""
    nodes = {
        "kinds": [NodeKind.KERNEL, NodeKind.MEMCPY, NodeKind.KERNEL],
        "functions": [0, NO_FUNCTION, 1],
        "skeletons": [b"\1\2", b"", b"\3\4"],
        "edges": [(0, 1, 0, 0, 0), (1, 2, 0, 0, 1)],
    }
    words = np.arange(10, dtype=np.uint64)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        save_file({"layer.weight": np.ones((4, 4), np.float32)}, file)
        capture = Capture(
            target="cuda",
            requirements=Requirements(memory=1 << 20, architecture="sm_90", driver=13000),
            producer={"foundryc": "sample"},
            provenance={"note": "made by hand"},
            regions=[
                RegionImage("weights", BASE, 8192),
                RegionImage("io", BASE + 8192, 4096, lambda: [bytes(range(256)) * 8]),
            ],
            tensors=[
                Tensor(
                    name="w", region=0, offset=0, dtype="float32", shape=(4, 4), strides=(4, 1),
                    role="weight",
                ),
                Tensor(
                    name="y", region=1, offset=128, dtype="float16", shape=(2, 3), strides=(1, 2),
                    role="output", graph=0,
                ),
            ],
            functions=[
                Function(name="gemm", kernel=0, max_dynamic_shared=1024),
                Function(name="norm", kernel=0),
            ],
            graphs=[
                GraphTable.of_nodes(
                    "decode", {"batch": batch}, parameters=np.split(words + batch, [5, 8]), **nodes
                )
                for batch in (1, 8)
            ],
            kernels=[b"\x7fELF a kernel binary" * 20, b"\x7fELF digests of weights"],
            variables=[Variable(kernel=0, name="scale", data=bytes(4))],
            slices={0: whole(TensorFile(file).tensors["layer.weight"])},
            digest_kernel=1,
        )  # fmt: skip
        files = {"tokenizer.json": b"{}"}
        write_bundle(path, capture, "sample", {"size": 3, "name": "x", "ratio": 0.5}, files)


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
