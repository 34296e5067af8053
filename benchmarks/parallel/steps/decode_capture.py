"""Captures decode passes of a model, or of a rank's share. Arguments: model, ranks, bundle, many.

`many` is a word: as many as torch captures; or empty.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from benchmarks.parallel.steps.decode_sizes import sizes
from benchmarks.parse.models import CONFIGS, zero_weights
from foundryc.recorder import Recorder
from parse_runtime.capture.passes import Passes, record_graphs
from parse_runtime.models.shard import Shard

name, world, path, many = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), bool(sys.argv[4])
shard, own = Shard(CONFIGS[name], world), sizes(name, many)
recorder = Recorder("cuda", "parse", {"model": name, "tp": world, "many": many})
ranks = None
if world > 1:
    ranks = recorder.ranks(world, own.batches[-1] * shard.whole.hidden * 2)
weights = zero_weights(shard, recorder)
with torch.inference_mode():
    passes = Passes(
        "target", shard.config, weights, own, recorder.register, run_ahead=True, ranks=ranks
    )
    with recorder.warm_up():
        for _, run in passes.graphs():
            run()
    record_graphs(recorder, passes.graphs())
    recorder.save(path)
