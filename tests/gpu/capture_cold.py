"""Captures with no warm-up: what of torch comes up inside a capture. Prints name -> error."""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F

from foundryc.cuda.recording import CudaRecording

r = CudaRecording()
x = r.register("x", torch.randn(64, 256).to(torch.bfloat16), "input")
weight = r.register("weight", torch.randn(256, 256).to(torch.bfloat16), "weight")
image = r.register("image", torch.randn(2, 16, 16, 16).to(torch.bfloat16), "input")
filters = r.register("filters", torch.randn(16, 16, 3, 3).to(torch.bfloat16), "weight")
heads = x.view(1, 64, 4, 64).transpose(1, 2)
cases = {
    "elementwise": lambda: x * 2,
    "linear": lambda: F.linear(x, weight),
    "attention": lambda: F.scaled_dot_product_attention(heads, heads, heads, is_causal=True),
    "convolution": lambda: F.conv2d(image, filters),
    "random": lambda: torch.rand_like(x),
    "literal": lambda: x + torch.tensor([1.0, 2.0], device="cuda").sum(),
}
messages = {}
with torch.inference_mode():
    for name, body in cases.items():
        try:
            with r.graph(name) as g:
                g.output("out", body())
            r.graphs[-1].replay()
            torch.cuda.synchronize()
            messages[name] = ""
        except Exception as error:
            messages[name] = f"{type(error).__name__}: {error}"[:500]
print(json.dumps(messages))
