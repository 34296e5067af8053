"""Digests of what each graph of a bundle gives when it runs alone: for `foundryc capture`'s proof.

`python -m foundryrt.cuda.outputs BUNDLE BASE` prints a JSON list with an object for each graph, the
SHA-256 of every output by name. All memory but the weights is as at the start before each graph.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from foundryrt.bundle.reader import Bundle
from foundryrt.cuda.backend import CudaBackend


def outputs(path: Path, base: int) -> list[dict[str, str]]:
    """Digests by output of every graph of the bundle, its memory at `base`."""
    with Bundle.open(path) as bundle:
        backend = CudaBackend(bundle, base=base)
        try:
            return [_of(backend, bundle, graph) for graph in range(len(bundle.manifest.graphs))]
        finally:
            backend.close()


def _of(backend: CudaBackend, bundle: Bundle, graph: int) -> dict[str, str]:
    manifest = bundle.manifest
    backend.fill_regions(but=("weights",))
    if manifest.random is not None:
        backend.seed(manifest.random.initial_seed)
    backend.launch(graph)
    return {
        tensor.name: hashlib.sha256(backend.read(tensor).tobytes()).hexdigest()
        for tensor in manifest.tensors
        if tensor.graph == graph
    }


if __name__ == "__main__":
    print(json.dumps(outputs(Path(sys.argv[1]), int(sys.argv[2], 0))))
