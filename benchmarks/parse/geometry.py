"""PARSE at real geometry with random weights: decoding, verification, gains, peers.

Passes are captured by torch.cuda.graph in this process. Results are written row by row; parts
that are not run keep what the file has.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from typer import BadParameter, Option

from benchmarks.parse import peers
from benchmarks.parse.drafts import Drafts, shared_verification
from benchmarks.parse.gain import Profile, gains
from benchmarks.parse.long import Lengths, long_contexts
from benchmarks.parse.measure import (
    CapturedSession,
    copy_bandwidth,
    median_seconds,
    wall_seconds,
)
from benchmarks.parse.mixed import TINY, Load, loads
from benchmarks.parse.models import CONFIGS, decode_bytes, random_parameters
from benchmarks.parse.prefill import shared_passes
from benchmarks.parse.steps import host_share
from benchmarks.parse.verification import Sizes, evidence_seconds, verification
from benchmarks.report import RESULTS, Output, Report, chosen, say
from parse_runtime.capture.passes import Passes
from parse_runtime.engine.batch import Batch, Sampling
from parse_runtime.graphs.decoder import GraphDecoder
from parse_runtime.signature.sizes import PassSizes

FILE = RESULTS / "parse_geometry.json"
PARTS = (
    "decode", "host", "prefill", "long", "mixed", "verify", "evidence", "gain", "peers", "moe",
    "32b",
)  # fmt: skip
N = TypeVar("N", int, float)
AGREEMENT = 0.8
"""Fraction of tokens on which the assistant of `peers` agrees with the target."""


class Benchmark:
    """Models, made once and shared by the parts, and the results so far."""

    def __init__(
        self, output: Path, tiny: bool, batches: tuple[int, ...], gain: dict[str, Any]
    ) -> None:
        self.tiny, self.batches, self.gain = tiny, batches, gain
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._models: dict[str, Any] = {}
        self.bandwidth = copy_bandwidth(self.device)
        name = torch.cuda.get_device_name() if self.device == "cuda" else "CPU"
        about = {
            "device": name,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "torch": torch.__version__,
            "copy_bandwidth": self.bandwidth,
        }
        self.save = Report(output, about).save

    def model(self, name: str, agreement: float = 1.0) -> Any:
        """(config, parameters)."""
        if self.tiny:
            name = "tiny-moe" if "a3b" in name else "tiny"
        key = f"{name} {agreement}"
        if key not in self._models:
            config = CONFIGS[name]
            self._models[key] = config, random_parameters(config, self.device, agreement)
        return self._models[key]

    def forget(self) -> None:
        """Free the models' memory."""
        self._models.clear()
        gc.collect()
        torch.cuda.empty_cache()

    def decoding(self, part: str, name: str, batches: tuple[int, ...]) -> dict[str, Any]:
        """Decoding by the target alone, from position 512 on, by batch.

        `seconds_device` is a step's graph alone, `tokens_per_second` a loop over the backend, which
        reads every token while the next step runs.
        """
        config, parameters = self.model(name)
        start, tokens = 16 if self.tiny else 512, 64
        sizes = PassSizes(
            max_len=start + 2 * tokens, slots=max(batches), prefill=(start,), decode=batches
        )
        session = CapturedSession(self.device)
        passes = Passes("target", config, parameters, sizes, session.register, run_ahead=True)
        session.add(passes)
        target = GraphDecoder(session, passes.signature)
        read = decode_bytes(parameters, config)
        found: dict[str, Any] = {"weight_bytes": read, "prompt": start, "by_batch": []}
        for slot in range(sizes.slots):
            target.prefill(slot, list(range(slot, slot + start)), 0, Sampling())
        for batch in batches:
            slots, samplings = list(range(batch)), [Sampling()] * batch

            def steps(count: int, slots: Any = slots, samplings: Any = samplings) -> list[int]:
                # Slots differ in their tokens, and so, in a mixture model, in their experts.
                last, all_tokens = [start + slot for slot in slots], []
                for i in range(count):
                    positions = [start + i] * len(slots)
                    ahead = i + 1 < count
                    last = target.decode(Batch(slots, last, positions, samplings, ahead=ahead))
                    all_tokens.append(last[0])
                return all_tokens

            follows = steps(4)
            seconds = wall_seconds(lambda s=steps: s(tokens)) / tokens
            device = median_seconds(session.graph("target.decode", batch=batch).launch, 9)
            found["by_batch"].append(
                {
                    "batch": batch,
                    "tokens_per_second": batch / seconds,
                    "seconds_step": seconds,
                    "seconds_device": device,
                    "follows": follows,
                }
            )
            say(f"{name} {found['by_batch'][-1]}")
            if batch == batches[0]:
                # A batch of a mixture model reads more experts than one row does.
                for kind, time_ in (("", seconds), ("_device", device)):
                    found[f"decode_over_bandwidth{kind}"] = read / time_ / self.bandwidth
                say(f"{name} over bandwidth {found['decode_over_bandwidth']:.3f}")
            self.save(part, found)
        return found


def decode(bench: Benchmark) -> None:
    bench.decoding("decode", "qwen3-14b", (1, 2, 4, 8, 16, 32))


def host(bench: Benchmark) -> None:
    """What the host adds to a decode step of 0.6B, with and without running ahead."""
    model = bench.model("qwen3-0.6b")
    found: dict[str, Any] = {"rows": []}
    for batch in (1, 4) if bench.tiny else (1, 64):
        for run_ahead in (True, False):
            lengths = (16, 8) if bench.tiny else (256, 128)
            row = host_share(model, bench.device, batch, *lengths, run_ahead)
            say(f"0.6b {row}")
            found["rows"].append(row)
            if run_ahead:
                found[f"host_share_{batch}"] = row["host_share"]
                found[f"step_ms_{batch}"] = row["seconds_graph"] * 1e3
            bench.save("host", found)


def prefill(bench: Benchmark) -> None:
    """Many prompts by shared passes, of 0.6B and 14B."""
    sizes = ((32, 64), 20, 4) if bench.tiny else ((128, 256, 512, 1024, 2048), 250, 64)
    rows = []
    for name in ("qwen3-0.6b", "qwen3-14b"):
        for row in shared_passes(bench.model(name), bench.device, *sizes):
            rows.append({"model": name, **row})
            say(str(rows[-1]))
            bench.save("prefill", {"rows": rows})


def long(bench: Benchmark) -> None:
    """Contexts of 32k tokens, of 0.6B and 14B."""
    lengths = Lengths((96,), (24, 96), (1, 2), 64) if bench.tiny else Lengths()
    rows = []
    for name in ("qwen3-0.6b", "qwen3-14b"):
        for row in long_contexts(bench.model(name), bench.device, bench.bandwidth, lengths):
            rows.append({"model": name, **row})
            say(str(rows[-1]))
            bench.save("long", {"rows": rows})


def mixed(bench: Benchmark) -> None:
    """Prompts beside steps of others, of 14B: passes of both, and what they are worth by load."""
    rows, load = [], TINY if bench.tiny else Load()
    for row in loads(bench.model("qwen3-14b"), bench.device, load):
        rows.append(row)
        say(str(row))
        bench.save("mixed", {"rows": rows})


def verify(bench: Benchmark) -> None:
    sizes = Sizes(32, 64, 4, (2, 4, 8)) if bench.tiny else Sizes()
    found: dict[str, Any] = {"sizes": vars(sizes), "seconds_by_cuts": []}
    for row in verification(*bench.model("qwen3-14b"), bench.device, sizes):
        found["seconds_by_cuts"].append(row)
        if row["cuts"] == 8:
            found["one_pass_over_prefill"] = row["one_pass"] / row["prefill"]
            found["one_pass_over_sequential"] = row["one_pass"] / row["sequential_reuse"]
        say(str(row))
        bench.save("verify", found)
    drafts = Drafts(16, 4, (32, 64), (2, 4)) if bench.tiny else Drafts()
    found |= {"drafts": vars(drafts), "seconds_by_drafts": []}
    for name in ("qwen3-0.6b", "qwen3-14b"):
        for row in shared_verification(bench.model(name), bench.device, drafts):
            found["seconds_by_drafts"].append({"model": name, **row})
            say(f"{name} {row}")
            bench.save("verify", found)


def evidence(bench: Benchmark) -> None:
    """What evidence of half of 512 drafted tokens, the default, and of all costs a verify pass."""
    sizes = Sizes(32, 64, 4, (4,)) if bench.tiny else Sizes(cuts=(8,))
    found = evidence_seconds(*bench.model("qwen3-14b"), bench.device, sizes)
    costs = {share: seconds / found["0"] for share, seconds in found.items() if share != "0"}
    say(f"{found} {costs}")
    row = {"sizes": vars(sizes), "seconds_by_share": found, "cost_by_share": costs}
    bench.save("evidence", {**row, "evidence_cost": costs["0.5"]})


def gain(bench: Benchmark) -> None:
    tiny = Profile(16, 32, (2, 0), 4, (0.0, 0.5, 1.0), (1, 2), 2, 2, between=2, later=(16, 2))
    profile = tiny if bench.tiny else Profile()
    if bench.batches:
        profile = replace(profile, batches=bench.batches)
    profile = replace(profile, **bench.gain)
    target, draft = bench.model("qwen3-14b"), bench.model("qwen3-0.6b")
    rows = []
    for row in gains(target, draft, bench.device, profile):
        rows.append(row)
        say(str(row))
        bench.save("gain", {"profile": vars(profile), "gain_by_acceptance": rows})


def compare(bench: Benchmark) -> None:
    target, draft = bench.model("qwen3-14b"), bench.model("qwen3-0.6b", AGREEMENT)
    config, parameters = target
    tokens = 8 if bench.tiny else 96
    prompt = list(range(16 if bench.tiny else 256))
    found: dict[str, Any] = {"prompt": len(prompt), "tokens": tokens, "agreement": AGREEMENT}
    sizes = PassSizes(max_len=len(prompt) + tokens, prefill=(len(prompt),))
    session = CapturedSession(bench.device)
    passes = Passes("target", config, parameters, sizes, session.register, run_ahead=True)
    session.add(passes)
    ours = GraphDecoder(session, passes.signature)

    def generate() -> None:
        token = ours.prefill(0, prompt, 0, Sampling())
        for i in range(tokens - 1):
            last = Batch([0], [token], [len(prompt) + i], [Sampling()], ahead=i + 2 < tokens)
            token = ours.decode(last)[0]

    generate()
    rate = tokens / statistics.median(wall_seconds(generate) for _ in range(3))
    found["ours"] = {"tokens_per_second": rate}

    def tell(name: str, result: dict[str, Any]) -> None:
        found[name] = result
        best = [
            found[way]["tokens_per_second"]
            for way in ("eager", "static_compiled")
            if "tokens_per_second" in found.get(way, {})
        ]
        # Over its best: no figure before, or without, the compiled run.
        if "tokens_per_second" in found.get("static_compiled", {}):
            found["over_transformers"] = rate / max(best)
        if "tokens_per_second" in found.get("assisted", {}):
            found["over_assisted"] = rate / found["assisted"]["tokens_per_second"]
        say(f"{name} {result}; ours {rate:.1f} tokens/s")
        bench.save("peers", found)

    models = [peers.as_transformers(*model, bench.device) for model in (target, draft)]
    peers.rates(*models, prompt, tokens, tell)


def moe(bench: Benchmark) -> None:
    bench.forget()
    bench.decoding("moe", "qwen3-30b-a3b", (1, 2, 4, 8, 16, 32))


def large(bench: Benchmark) -> None:
    bench.forget()
    found = bench.decoding("32b", "qwen3-32b", (1, 8))
    sizes = Sizes(32, 64, 4, (8,)) if bench.tiny else Sizes(cuts=(8,))
    rows = list(verification(*bench.model("qwen3-32b"), bench.device, sizes))
    ratio = rows[0]["one_pass"] / rows[0]["prefill"]
    bench.save("32b", {**found, "one_pass_over_prefill": ratio, "seconds_by_cuts": rows})


MEASURE: dict[str, Callable[[Benchmark], None]] = dict(zip(
    PARTS,
    (decode, host, prefill, long, mixed, verify, evidence, gain, compare, moe, large),
    strict=True,
))  # fmt: skip


def run(
    parts: Annotated[str, Option(help="What is measured, comma-separated.")] = ",".join(PARTS),
    batches: Annotated[str, Option(help="Batches of the part gain, such as 1,8,32.")] = "",
    acceptances: Annotated[str, Option(help="And its acceptances, such as 0.5,0.75.")] = "",
    rounds: Annotated[str, Option(help="And the most drafts of an answer, such as 1,2.")] = "",
    tiny: Annotated[
        bool, Option("--tiny", help="Toy models, to try the benchmark; figures mean nothing.")
    ] = False,
    output: Output = FILE,
) -> None:
    """Measure PARSE at real geometry with random weights."""
    wanted = chosen(parts, PARTS, "--parts")
    if tiny and output.resolve() == FILE.resolve():
        raise BadParameter(
            "name another file: figures of --tiny mean nothing", param_hint="--output"
        )
    sizes = _numbers(int, batches, "--batches")
    given = {
        "acceptances": _numbers(float, acceptances, "--acceptances"),
        "rounds": _numbers(int, rounds, "--rounds"),
    }
    bench = Benchmark(output, tiny, sizes, {name: some for name, some in given.items() if some})
    for part in wanted:
        say(part)
        MEASURE[part](bench)


def _numbers(kind: type[N], text: str, option: str) -> tuple[N, ...]:
    try:
        return tuple(kind(number) for number in text.split(",") if number)
    except ValueError:
        message = f"{text!r}: {'integers' if kind is int else 'numbers'} are wanted"
        raise BadParameter(message, param_hint=option) from None
