"""A layer with a weight in a safetensors file and one in no file. Argument: folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from foundryc.cuda.recording import CudaRecording
from foundryc.weights import TensorFile, WeightSlice
from foundryc.write import write_bundle

folder = Path(sys.argv[1])
r = CudaRecording()
generator = torch.Generator().manual_seed(0)
parts = {
    name: torch.randn(rows, 256, generator=generator).to(torch.bfloat16)
    for name, rows in (("q", 256), ("k", 64))
}
save_file(parts, folder / "layer.safetensors")
stored = TensorFile(folder / "layer.safetensors").tensors
fused = torch.cat([parts["q"], parts["k"]])
slices = [
    WeightSlice(stored["q"], rows=256, columns=256),
    WeightSlice(stored["k"], rows=64, columns=256, row=256),
]
scale = r.register("scale", torch.randn(320, generator=generator).to(torch.bfloat16), "weight")
weight = r.register("weight", fused, "weight", slices)
x = r.register("x", torch.randn(8, 256, generator=generator).to(torch.bfloat16), "input")
with torch.inference_mode():
    with r.warm_up():
        F.linear(x, weight) * scale
    with r.graph("layer") as g:
        out = F.linear(x, weight) * scale
        g.output("out", out)
r.graphs[0].replay()
torch.cuda.synchronize()
np.savez(
    folder / "layer.npz",
    out=out.view(torch.int16).cpu().numpy(),
    weight=fused.view(torch.int16).numpy(),
)
files = {"note": b"kept"}
write_bundle(folder / "layer.fdy", r.capture(False), "layer", {"width": 256}, files)
print(json.dumps({"bundle_bytes": (folder / "layer.fdy").stat().st_size}))
