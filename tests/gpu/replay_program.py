"""The graphs of capture_program.py in the order in which it ran them. Argument: folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from foundryrt import Session

folder = Path(sys.argv[1])
expected = np.load(folder / "program.npz")
report = {}
with Session.open(folder / "program.fdy") as session:
    report["total begins as zeros"] = not session.read("total").any()
    for batch in (1, 8):
        step = session.graph("step", batch=batch)
        report[f"x of {batch}"] = step.read("x").tobytes() == expected[f"x{batch}"].tobytes()
        step.launch()
        total = session.read("total")
        report[f"total after {batch}"] = total.tobytes() == expected[f"total{batch}"].tobytes()
        report[f"y of {batch}"] = step.read("y").tobytes() == (total[:batch] * 2).tobytes()
print(json.dumps(report))
