"""Frames through a bundle, without torch. Arguments: bundle, .npy of frames, .npy for the LLRs."""

from __future__ import annotations

import json
import sys

import numpy as np

from foundryrt.session import Session

bundle, frames, out = sys.argv[1:]
with Session.open(bundle) as session:
    graph, llr, bits = session.graph("receive"), [], []
    for samples in np.load(frames):
        session.write("samples", samples)
        graph.launch()
        llr.append(graph.read("llr"))
        bits.append(graph.read("bits"))
np.save(out, np.stack(llr))
np.save(f"{out}.bits.npy", np.stack(bits))
print(json.dumps({"torch": "torch" in sys.modules}))
