"""What torch alone needs until every graph is captured. Arguments: model, eager or compile."""

from __future__ import annotations

import json
import os
import sys
import time

SPAWNED = float(os.environ["SPAWNED"])

import torch  # noqa: E402

from benchmarks.start.steps.model import GEOMETRY, decode_passes, random_weights  # noqa: E402


def capture(name, compiled):
    """Batch size -> (CUDAGraph, outputs), all in one pool, as serving engines do it."""
    torch._dynamo.config.recompile_limit = 4096
    passes, _ = decode_passes(
        name, dict(random_weights(GEOMETRY[name])), lambda _, tensor, role: tensor.to("cuda"),
        torch.compile if compiled else lambda function: function,
    )  # fmt: skip
    graphs, pool = {}, torch.cuda.graph_pool_handle()
    with torch.inference_mode():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _, run in passes:
                run()
        torch.cuda.synchronize()
        for batch, run in passes:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=stream):
                outputs = run()
            graphs[batch] = (graph, outputs)
    torch.cuda.synchronize()
    return graphs


if __name__ == "__main__":
    imported = time.time()
    capture(sys.argv[1], sys.argv[2] == "compile")
    done = time.time()
    print(
        json.dumps(
            {"torch_total_ms": (done - SPAWNED) * 1e3, "import_ms": (imported - SPAWNED) * 1e3}
        )
    )
