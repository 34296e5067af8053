"""Digests of what each graph of a bundle gives when it runs alone: for `foundryc capture`'s proof.

`python -m foundryrt.cuda.outputs BUNDLE BASE` prints a line for each graph once it has run: a JSON
object with the SHA-256 of every output by name. Before each graph all memory but the weights is as
at the start.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from foundryrt.bundle.reader import Bundle
from foundryrt.cuda.backend import CudaBackend


def outputs(path: Path, base: int) -> Iterator[dict[str, str]]:
    """Digests by output of every graph of the bundle in turn, its memory at `base`."""
    with Bundle.open(path) as bundle:
        backend = CudaBackend(bundle, base=base)
        try:
            for graph in range(len(bundle.manifest.graphs)):
                yield _of(backend, bundle, graph)
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
    for _digests in outputs(Path(sys.argv[1]), int(sys.argv[2], 0)):
        print(json.dumps(_digests), flush=True)
