"""Captures a rank's passes of the model over several GPUs, without weights, on one of them.

Arguments: kind, ranks, bundle, tiny. Kinds are bf16 and fp8, the weights of decode passes, and
pair, all passes of target and draft model with weights in bf16. `tiny` is a word: a toy on the CPU;
or empty.

A graph `fill` makes the weights: of random numbers that a session writes once into a tensor, pieces
from differing places. All ranks have the same numbers, so routers, which each has whole, agree.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.parallel.steps.eight_sizes import FP8_BYTES, model_of
from benchmarks.parse.gain import passes_of, sizes_of
from benchmarks.parse.models import CONFIGS, SMALL, STD, zero_weights
from benchmarks.report import say
from foundryc.recorder import Recorder
from parse_runtime.capture.passes import Passes, record_graphs
from parse_runtime.models.shard import Shard

MOST = 16 << 20
"""Bytes that a rank sends at a time, at most."""


class Fill:
    """Copies of random numbers at differing places, into one tensor after the other."""

    def __init__(self, recorder: Recorder, count: int) -> None:
        self._half = count // 2
        self.normal = recorder.register("noise", torch.zeros(count, dtype=torch.int16), "state")
        """Bits of bfloat16 numbers, normal, of deviation 1,"""
        self.bytes = recorder.register("noise8", torch.zeros(count, dtype=torch.uint8), "state")
        """and of FP8 ones."""
        values = torch.arange(FP8_BYTES, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
        self._deviation = float(values.square().mean().sqrt())
        # No multiple of a row: rows of a tensor, as of the embedding table, are to differ.
        self._places = (8 * 100_003 * i % self._half for i in itertools.count())

    def run(self, weights: Mapping[str, Tensor]) -> None:
        """Fill a model's; deviations are those of benchmarks/parse/models.py."""
        for key, weight in weights.items():
            name = key.rpartition(".")[2]
            if name == "head":
                continue
            if name.endswith("norm"):
                weight.fill_(1.0)
            elif name.endswith("_scale"):
                weight.fill_(_deviation(name.removesuffix("_scale")) / self._deviation)
            elif weight.dtype == torch.float8_e4m3fn:
                for part, piece in self._pieces(weight.view(torch.uint8), self.bytes):
                    part.copy_(piece)
            else:
                for part, piece in self._pieces(weight, self.normal):
                    torch.mul(piece.view(torch.bfloat16), _deviation(name), out=part)
        # The row of the token after it: of each rank's tokens, t is followed by t + 1.
        weights["head"][1:].copy_(weights["embed"][:-1] * STD)
        weights["head"][:1].copy_(weights["embed"][-1:] * STD)

    def _pieces(self, weight: Tensor, numbers: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for part in weight.view(-1).split(self._half):
            yield part, numbers.narrow(0, next(self._places), len(part))


def _deviation(name: str) -> float:
    return 1.0 if name == "embed" else SMALL if name in ("o", "down", "experts_down") else STD


def main(kind: str, world: int, path: Path, tiny: bool) -> None:
    model, began = model_of(tiny), time.time()
    shard = Shard(CONFIGS[model.target], world)
    drafting = Shard(CONFIGS[model.draft], 1)
    sizes = sizes_of(model.profile, model.question)[0] if kind == "pair" else model.sizes
    settings = {"model": model.target, "kind": kind, "tp": world, "tiny": tiny, "many": True}
    recorder = Recorder("host" if tiny else "cuda", "parse", settings, progress=_say)
    rows = [*sizes.prefill, *(size[0] for size in (*sizes.verify, *sizes.shared)), *sizes.batches]
    ranks = recorder.ranks(world, min(max(rows) * shard.whole.hidden * 2, MOST))
    fill = Fill(recorder, model.noise)
    target = shard.config, zero_weights(shard, recorder, fp8=kind == "fp8")
    models = [target]
    with torch.inference_mode():
        if kind == "pair":
            models.append((drafting.config, zero_weights(drafting, recorder, "draft")))
            passes = passes_of(
                *models, recorder.register, model.profile, model.question, ranks=ranks
            )
        else:
            passes = [
                Passes("target", *target, sizes, recorder.register, run_ahead=True, ranks=ranks)
            ]
        graphs = [graph for one in passes for graph in one.graphs()]
        if not tiny:
            with recorder.warm_up():
                for _, weights in models:
                    fill.run(weights)
                for _, run in graphs:
                    run()
        record_graphs(recorder, graphs)
        with recorder.graph("fill"):
            for _, weights in models:
                fill.run(weights)
        recorder.save(path)
    report = {
        "graphs": len(graphs) + 1, "capture_s": time.time() - began,
        "bundle_mb": path.stat().st_size / 1e6,
        "weight_bytes": sum(w.nbytes for _, weights in models for w in weights.values()),
    }  # fmt: skip
    print(json.dumps(report))


def _say(phase: str) -> None:
    if not phase.startswith("recording"):
        say(phase)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), bool(sys.argv[4]))
