"""Runs a bundle of eight_capture.py over all ranks, its weights filled. Arguments: bundle, devices.

Decoding by the target alone: by batch, seconds of a step whose tokens the host reads, and of its
graph alone. Or PARSE by given acceptance. A line of JSON as each row comes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.parallel.steps.eight_sizes import FP8_BYTES, Model, model_of
from benchmarks.parse.gain import GivenTarget, gains_of, sizes_of
from benchmarks.parse.models import CONFIGS
from foundryrt import Session
from foundryrt.ranks.followers import Followers
from parse_runtime.engine.batch import Batch, Sampling
from parse_runtime.graphs.decoder import GraphDecoder
from parse_runtime.models.shard import Shard
from parse_runtime.signature.passes import ModelSignature


def fill(session: Session, count: int) -> float:
    """Give all ranks the same weights; seconds until they are there."""
    generator, began = np.random.default_rng(0), time.perf_counter()
    bits = generator.standard_normal(count, np.float32).view(np.uint32) >> 16
    session.write("noise", bits.astype(np.uint16).view(np.int16))
    signs = generator.integers(0, 2, count, np.uint8) << 7
    session.write("noise8", signs | generator.integers(0, FP8_BYTES, count, np.uint8))
    session.graph("fill").launch()
    session.synchronize()
    return time.perf_counter() - began


def decoding(session: Session, model: Model) -> Iterator[dict[str, Any]]:
    """Rows by batch; SystemExit where the tokens are not those of the weights."""
    signature = ModelSignature("target", model.sizes, run_ahead=True)
    target, start = GraphDecoder(session, signature), model.prompt
    own = Shard(CONFIGS[model.target], session.settings["tp"]).vocab
    for slot in range(signature.sizes.slots):
        target.prefill(slot, list(range(slot, slot + start)), 0, Sampling())
    for batch in model.batches:
        slots, samplings = list(range(batch)), [Sampling()] * batch

        def steps(count: int, slots: Any = slots, samplings: Any = samplings) -> None:
            last = [start + slot for slot in slots]
            for i in range(count):
                at = Batch(slots, last, [start + i] * len(slots), samplings, ahead=i + 1 < count)
                found = target.decode(at)
                # Ranks have the same tables, so a token is one of several that are as likely.
                pairs = zip(last, found, strict=True)
                if any(int(new) % own != (old + 1) % own for old, new in pairs):
                    raise SystemExit(f"step {i} of {len(slots)}: {found} do not follow {last}")
                last = [int(token) for token in found]

        steps(4)
        seconds = _seconds(session, lambda s=steps: s(model.steps)) / model.steps
        graph = session.graph("target.decode", batch=batch)
        alone = _seconds(session, lambda g=graph: [g.launch() for _ in range(model.steps)])
        yield {
            "batch": batch, "seconds_step": seconds, "tokens_per_second": batch / seconds,
            "seconds_device": alone / model.steps,
        }  # fmt: skip


def parse(session: Session, model: Model) -> Iterator[dict[str, Any]]:
    """Rows by batch and acceptance."""
    sizes = sizes_of(model.profile, model.question)
    signatures = [
        ModelSignature(name, own, run_ahead=True)
        for name, own in zip(("target", "draft"), sizes, strict=True)
    ]
    target = GivenTarget(session, signatures[0])
    target.profile = model.profile
    yield from gains_of(target, GraphDecoder(session, signatures[1]), model.question, {})


def _seconds(session: Session, call: Any) -> float:
    session.synchronize()
    began = time.perf_counter()
    call()
    session.synchronize()
    return time.perf_counter() - began


def main(path: str, devices: list[int]) -> None:
    with (
        Followers.start(path, len(devices), devices) as followers,
        Session.open(path, device=devices[0], followers=followers) as session,
    ):
        session.wait()
        model = model_of(session.settings["tiny"])
        print(json.dumps({"fill_s": fill(session, model.noise)}), flush=True)
        measure = parse if session.settings["kind"] == "pair" else decoding
        for row in measure(session, model):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], [int(one) for one in sys.argv[2].split(",")])
