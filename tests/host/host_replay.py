"""Run as a script: replays bundles of host_programs.py; prints the outputs that differ."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from foundryrt.session import Session

if "torch" in sys.modules:
    sys.exit("opening a session must not need torch")


def main(folder: str, *names: str) -> None:
    for name in names:
        expected = np.load(Path(folder) / f"{name}.npz")
        steps = sorted({int(key.split("/")[0]) for key in expected.files})
        with Session.open(Path(folder) / f"{name}.fdy") as session:
            graph = session.graph("main")
            for step in steps:
                for key in expected.files:
                    which, kind, tensor = key.split("/")
                    if int(which) == step and kind == "in":
                        session.write(tensor, expected[key])
                graph.launch()
                for key in expected.files:
                    which, kind, tensor = key.split("/")
                    if int(which) == step and kind == "out":
                        got = graph.read(tensor)
                        want = expected[key]
                        same = (got.dtype, got.shape) == (want.dtype, want.shape)
                        if not same or got.tobytes() != want.tobytes():
                            print(f"{name} step {step} {tensor}")
    print("foundryc" in sys.modules, len(names))


if __name__ == "__main__":
    main(*sys.argv[1:])
