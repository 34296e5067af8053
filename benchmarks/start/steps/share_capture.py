"""Captures all passes of a rank's share of a model. Arguments: model, ranks, bundle, seconds.

With seconds, 0 for none, the bundle is proved, which must be done by then. Weights are zeros that
the bundle does not hold: as state, which a session begins with as zeros.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.parse.models import CONFIGS, zero_weights
from benchmarks.report import say
from foundryc.elsewhere import Elsewhere, store
from foundryc.recorder import Recorder
from parse_runtime.capture.passes import Passes, record_graphs
from parse_runtime.models.shard import Shard
from parse_runtime.signature.sizes import PassSizes

BATCHES = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
"""The 51 sizes that vLLM captures."""
# Caches for 512 whole sequences would not leave room for the proof, which needs twice the memory.
LARGE = PassSizes(
    max_len=768, slots=512, kv_tokens=1 << 17, prefill=(256, 512), verify=((512, 8),),
    decode=BATCHES,
)  # fmt: skip
SMALL = PassSizes(max_len=64, slots=4, prefill=(32,), verify=((32, 4),), decode=(1, 4))


def main(name: str, world: int, path: Path, limit: int, stack: ExitStack) -> None:
    elsewhere = None
    if limit and store() is None:
        signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"the proof is not done in {limit} s"))
        signal.alarm(limit)
        folder = stack.enter_context(TemporaryDirectory(dir=path.parent))
        elsewhere = stack.enter_context(Elsewhere([sys.executable, *sys.argv], Path(folder)))
        elsewhere.begin()
    began, config = time.time(), CONFIGS[name]
    shard, sizes = Shard(config, world), SMALL if name.startswith("tiny") else LARGE
    recorder = Recorder(
        "cuda", "parse", {"model": name, "tp": world}, progress=_say, elsewhere=elsewhere
    )
    longest = max(*sizes.prefill, *(rows for rows, _ in sizes.verify), sizes.batches[-1])
    ranks = recorder.ranks(world, longest * config.hidden * 2)
    weights = zero_weights(shard, recorder)
    with torch.inference_mode():
        passes = Passes(
            "target", shard.config, weights, sizes, recorder.register, (1, 2), run_ahead=True,
            ranks=ranks,
        )  # fmt: skip
        made = time.time()
        with recorder.warm_up():
            for _, run in passes.graphs():
                run()
        torch.cuda.synchronize()
        warm = time.time()
        record_graphs(recorder, passes.graphs())
        captured = time.time()
        recorder.save(path)
    report = {
        "batches": len(sizes.batches),
        "prefill": sizes.prefill,
        "verify": sizes.verify,
        "weight_bytes": sum(t.numel() * t.element_size() for t in weights.values()),
        "capture_seconds": {
            "memory": made - began,
            "warm_up": warm - made,
            "graphs": captured - warm,
            "save": time.time() - captured,
        },
    }
    print(json.dumps(report))


def _say(phase: str) -> None:
    if not phase.startswith("recording"):
        say(phase)


if __name__ == "__main__":
    with ExitStack() as last:
        main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), last)
