"""Open the bundle of smoke_capture.py without torch and compare every bit. Argument: folder."""

from __future__ import annotations

import time

started = time.perf_counter()

from foundryrt.cuda import early  # noqa: E402

early.begin()

import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402

from foundryrt.bundle.reader import Bundle  # noqa: E402
from foundryrt.cuda.backend import CudaBackend  # noqa: E402


def main() -> None:
    folder = Path(sys.argv[1])
    expected = np.load(folder / "expected.npz")
    marks = {"imports": time.perf_counter() - started}
    bundle = Bundle.open(folder / "smoke.fdy")
    marks["bundle_open"] = time.perf_counter() - started
    backend = CudaBackend(bundle, first=0)
    marks["first_ready"] = time.perf_counter() - started
    backend.graphs.wait()
    marks["all_ready"] = time.perf_counter() - started
    manifest = bundle.manifest
    shared = {t.name: backend.tensor(t) for t in manifest.tensors if t.graph == -1}
    inputs = expected["inputs"]
    states = [t for t in shared.values() if t.schema.role == "state"]
    identical: list[list[bool]] = []
    for _ in range(3):
        for state in states:
            state.write(np.zeros(state.schema.shape, state.dtype))
        identical.append([])
        for index in range(len(manifest.graphs)):
            (logits,) = (backend.tensor(t) for t in manifest.tensors if t.graph == index)
            for step in range(inputs.shape[1]):
                shared["tokens"].write(inputs[index, step])
                shared["position"].write(np.array([step]))
                backend.launch(index)
                got, want = logits.read(), expected[f"{index}.{step}"]
                identical[-1].append(got.tobytes() == want.tobytes())
    report = {
        "marks_s": marks,
        "timeline_s": {step: at - started for step, at in backend.timeline},
        "nodes": sum(manifest.templates[g.template].nodes for g in manifest.graphs),
        "graphs": len(manifest.graphs),
        "templates": len(manifest.templates),
        "kernels": len(manifest.kernels),
        "functions": len(manifest.functions),
        "identical": identical,
        "nonzero": bool(got.any()),
        "torch_imported": "torch" in sys.modules,
    }
    backend.close()
    (folder / "replay.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report))


main()
