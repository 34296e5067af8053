"""What a capture must refuse, each in this process. Prints a JSON of names and messages."""

from __future__ import annotations

import json

import torch

from foundryc.cuda.recording import CudaRecording
from foundryrt.errors import FoundryError

r = CudaRecording()
x = r.register("x", torch.ones(64), "input")
outside = torch.ones(64, device="cuda")
pinned = torch.ones(64, pin_memory=True)
messages = {}


def attempt(name, body):
    try:
        with r.warm_up():
            body()
        with r.graph(name) as g:
            g.output("out", body())
        messages[name] = ""
    except FoundryError as error:
        messages[name] = str(error)


attempt("outside", lambda: x + outside)
attempt("host_copy", lambda: x.copy_(pinned, non_blocking=True))
attempt("fine", lambda: x * 2)
try:
    CudaRecording()
    messages["late"] = ""
except FoundryError as error:
    messages["late"] = str(error)
print(json.dumps(messages))
