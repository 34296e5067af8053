"""An ordinary script: it forecasts a noisy wave, and marks what a bundle is to keep of it.

    python examples/script.py                        # runs as any script
    foundryc capture examples/script.py -o wave.fdy --target host
    foundryrt run wave.fdy                           # its graphs, inputs and outputs

`foundryc.record` and `foundryc.keep` do nothing outside a capture. Running the bundle needs torch
on the host target, and nothing more on cuda, for which the script is given `cuda` as its argument:
`foundryc capture examples/script.py cuda -o wave.fdy --target cuda`.
"""

from __future__ import annotations

import sys

import torch

import foundryc

STREAMS = 4
device = sys.argv[1] if len(sys.argv) > 1 else "cpu"

torch.manual_seed(0)
cell, read = torch.nn.GRUCell(1, 32).to(device), torch.nn.Linear(32, 1).to(device)
foundryc.keep("cell", cell)
foundryc.keep("read", read)
hidden = foundryc.keep("hidden", torch.zeros(STREAMS, 32, device=device))
value = torch.zeros(STREAMS, 1, device=device)
wave = torch.sin(torch.linspace(0, 20, 50)) + 0.05 * torch.randn(STREAMS, 50)


def step() -> torch.Tensor:
    """The next value that each stream is expected to have; `hidden` is updated in place."""
    hidden.copy_(cell(value, hidden))
    return read(hidden)


with torch.no_grad():
    step()  # libraries come up before the graph
    hidden.zero_()
    for t in range(wave.shape[1]):
        value.copy_(wave[:, t : t + 1])
        # Recorded the first time; it runs as it is every time.
        with foundryc.record("step", streams=STREAMS) as graph:
            graph.input("value", value)
            graph.output("next", step())
print("after", wave.shape[1], "values:", [f"{x:.3f}" for x in read(hidden).flatten().tolist()])
