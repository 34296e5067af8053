"""Graphs of a program over memory that it makes and frees between them. Argument: folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from foundryc import Recorder

folder = Path(sys.argv[1])
found = {}
with torch.inference_mode(), Recorder("cuda", workload="program", settings={}) as r:
    with r.program():
        weight = torch.randn(64, 64, device="cuda")
        total = torch.zeros(8, 64, device="cuda")
        for batch in (1, 8):
            x = torch.randn(batch, 64, device="cuda")
            table = torch.arange(64.0, device="cuda")  # freed when the second one is made
            torch.relu(x @ weight + table).softmax(-1)
            with r.graph("step", batch=batch) as g:
                g.input("x", x)
                total[:batch] += torch.relu(x @ weight + table).softmax(-1)
                g.output("y", total[:batch] * 2)
            # In a program a graph runs as it is recorded.
            found[f"total{batch}"] = total.cpu().numpy()
            found[f"x{batch}"] = x.cpu().numpy()
            del table
            torch.full((64,), float("nan"), device="cuda")
        r.keep("total", total)
    r.save(folder / "program.fdy")
np.savez(folder / "program.npz", **found)
print(json.dumps({"bytes": (folder / "program.fdy").stat().st_size}))
