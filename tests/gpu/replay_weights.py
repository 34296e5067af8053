"""Opens the bundle of capture_weights.py; then lets torch look at its memory. Argument: folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from foundryrt.bundle.reader import Bundle
from foundryrt.cuda.backend import CudaBackend

folder = Path(sys.argv[1])
expected = np.load(folder / "layer.npz")
bundle = Bundle.open(folder / "layer.fdy")
backend = CudaBackend(bundle, first=0)
tensors = {t.name: backend.tensor(t) for t in bundle.manifest.tensors}
backend.launch(0)
report = {
    "weight": bool((tensors["weight"].read().view(np.int16) == expected["weight"]).all()),
    "out": bool((tensors["out"].read().view(np.int16) == expected["out"]).all()),
    "file": bundle.file("note").decode(),
}

import torch  # noqa: E402

shared = torch.from_dlpack(tensors["out"])
report["dlpack"] = bool((shared.view(torch.int16).cpu().numpy() == expected["out"]).all())
report["dlpack_in_place"] = shared.data_ptr() == tensors["out"].address
report["dtype"] = str(shared.dtype)
bits = torch.as_tensor(tensors["out"], device="cuda")
report["array_interface"] = bits.data_ptr() == tensors["out"].address
shared.zero_()
torch.cuda.synchronize()
report["written_by_torch"] = not tensors["out"].read().any()
del shared, bits
backend.close()
print(json.dumps(report))
