"""Replay the bundle of smoke_kinds.py without torch and compare every bit. Argument: folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from foundryrt.bundle.reader import Bundle
from foundryrt.cuda.backend import CudaBackend
from foundryrt.errors import FoundryError


def main() -> None:
    folder = Path(sys.argv[1])
    expected = np.load(folder / "expected_kinds.npz")
    bundle = Bundle.open(folder / "kinds.fdy")
    backend = CudaBackend(bundle)
    result = {}
    for index, graph in enumerate(bundle.manifest.graphs):
        (out,) = (backend.tensor(t) for t in bundle.manifest.tensors if t.graph == index)
        try:
            same = []
            for _ in range(3):
                backend.launch(index)
                same.append(out.read().tobytes() == expected[graph.name].tobytes())
            result[graph.name] = all(same)
        except FoundryError as error:
            result[graph.name] = str(error)
    print(json.dumps({"identical": result, "torch_imported": "torch" in sys.modules}))
    (folder / "kinds_replay.json").write_text(json.dumps(result, indent=1))
    backend.close()


main()
