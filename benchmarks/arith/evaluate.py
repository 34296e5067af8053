"""Accuracy against speed of the trained pair, by the engine over captured bundles.

All methods answer the same problems in turn, chunk by chunk, in one process; a throughput is the
median over the chunks. Results are written as they come, after every chunk, each part with its
device and date; parts that are not run keep what is in the file.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from typer import BadParameter, Option

from benchmarks.arith import bundles, drive, judging
from benchmarks.arith.methods import METHODS, calibrate, measure, row
from benchmarks.report import RESULTS, Report, chosen, say
from foundryrt.session import Session
from parse_runtime.engine.batch import Chunk, Sampling
from parse_runtime.engine.outcome import Outcome
from parse_runtime.graphs.loading import Loaded, load

STRIDES = (4, 8, 16, 32)
SWEEP = (0.0, 0.01, 0.1, 0.9)
REJECTED = 64
"""Problems of which all drafts are rejected: a ratio of times, without an interval to narrow."""
PARTS: dict[str, tuple[str, ...]] = {
    "methods": (),
    "verdict_max_abs_diff": ("pair", "draft"),
    "all_rejected": ("pair",),
    "verdicts": ("pair", "draft"),
    "sweep": ("pair",),
}
"""What can be measured by name, and the bundles that it needs; methods have their own."""


class Target(StrEnum):
    """Where the engine runs."""

    HOST = "host"
    CUDA = "cuda"


FILES = {Target.CUDA: "parse_arith.json", Target.HOST: "parse_arith_host.json"}


def run(
    target: Annotated[Target, Option(help="Where the engine runs.")] = Target.HOST,
    parts: Annotated[str, Option(help="What is measured, comma-separated.")] = ",".join(PARTS),
    methods: Annotated[
        str, Option(help="Of the part methods, comma-separated; the target is always there.")
    ] = ",".join(METHODS),
    problems: Annotated[
        str,
        Option(help="Problems that every method answers, by --concurrent or for all."),
    ] = "64",
    calibration: Annotated[
        int, Option(help="Other problems, that verdicts are fitted to; 0: no fit is measured.")
    ] = 100,
    chunks: Annotated[int, Option(help="Chunks, of which speeds are medians.")] = 4,
    concurrent: Annotated[str, Option(help="Answers at a time, such as 1,16.")] = "1",
    threshold: Annotated[float, Option(help="From which a verdict accepts a prefix.")] = 0.5,
    dtype: Annotated[str, Option(help="float32 or bfloat16.")] = "float32",
    eagle_depth: Annotated[int, Option(help="Tokens that the EAGLE-3 head drafts ahead.")] = 5,
    eagle_width: Annotated[int, Option(help="Nodes of its draft tree on a level.")] = 1,
    seed: Annotated[int, Option(help="Of the problems.")] = 1000,
    weights: Annotated[
        Path, Option(help="Folder of the pair and its head.", exists=True)
    ] = bundles.WEIGHTS,
    output: Annotated[
        Path | None, Option("--output", "-o", metavar="FILE", help="Results, as JSON.")
    ] = None,
) -> None:
    """Measure accuracy and throughput of the arithmetic pair, by method.

    Results go to parse_arith.json, or parse_arith_host.json on host, unless --output is given.
    """
    at_a_time = [int(part) for part in concurrent.split(",")]
    counts = [int(part) for part in problems.split(",")]
    if len(counts) == 1:
        counts *= len(at_a_time)
    if len(counts) != len(at_a_time):
        raise BadParameter(
            f"{len(counts)} numbers for {len(at_a_time)} of --concurrent; give one or as many",
            param_hint="--problems",
        )
    wanted = chosen(parts, tuple(PARTS), "--parts")
    names = dict.fromkeys(["target", *chosen(methods, tuple(METHODS), "--methods")])
    needed = {name for part in wanted for name in PARTS[part]}
    if "methods" in wanted:
        needed |= {"pair", *(METHODS[name].bundle for name in names)}
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device(target),
        "dtype": dtype,
        "threshold": threshold,
        "eagle": {"depth": eagle_depth, "width": eagle_width},
        "problems": counts[-1],
        "seed": seed,
    }
    report = Report(output or RESULTS / FILES[target], about)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        paths = bundles.capture(
            Path(folder), weights, target, dtype, max(at_a_time), eagle_depth, eagle_width,
            needed,
        )  # fmt: skip
        say("captured")
        loaded = {}
        for name, path in paths.items():
            session = stack.enter_context(Session.open(path))
            session.wait()  # what is timed waits for no graph, and shares no core with their making
            loaded[name] = _open(session)
        say("opened")
        drawn = drive.draw(max(counts), seed)
        if "methods" in wanted:
            fit = None
            if calibration:
                fit, told = calibrate(loaded["pair"], drive.draw(calibration, seed + 1))
                report.save("calibration", told)
                say("calibrated")
            for one, count in zip(at_a_time, counts, strict=True):
                some = drawn[:count]
                for found in measure(loaded, names, fit, some, chunks, one, threshold):
                    report.save(f"batch_{one}", found)
        others = Others(loaded, drawn[: counts[-1]], at_a_time[-1], threshold, report)
        for part in PARTS:
            if part in wanted and part != "methods":
                getattr(others, part)()
                say(part)


def _open(session: Session) -> Loaded:
    loaded = load(session)
    return replace(loaded, target=_Separate(loaded.target))


class Others:
    """The parts beside the methods; each writes what it finds."""

    def __init__(
        self, loaded: dict[str, Loaded], problems: list[drive.Problem], concurrent: int,
        threshold: float, report: Report,
    ) -> None:  # fmt: skip
        self._loaded, self._pair, self._problems = loaded, loaded["pair"], problems
        self._concurrent, self._threshold, self._report = concurrent, threshold, report

    @cached_property
    def _drafts(self) -> list[Outcome]:
        alone = {"max_rounds": 0}
        return drive.answer(self._loaded["draft"], self._problems, self._concurrent, alone).outcomes

    def verdict_max_abs_diff(self) -> None:
        tokenizer, chat = self._pair.prompts.target.tokenizer, self._pair.prompts.target.chat
        suffix = tokenizer.encode(chat.judge_suffix("", self._pair.rules.judge_prompt))
        cases = []
        for outcome in self._drafts[:32]:
            draft = tokenizer.encode(outcome.text)[: bundles.MAX_NEW_TOKENS]
            cases.append((list(outcome.request.prompt), draft, list(range(8, len(draft), 16))))
        words = (tokenizer.single("Yes"), tokenizer.single("No"))
        worst = judging.one_pass_difference(self._pair.target, cases, suffix, words)
        self._report.save("verdict_max_abs_diff", {"value": worst, "problems": len(cases)})

    def all_rejected(self) -> None:
        some = self._problems[:REJECTED]
        never = replace(self._pair, target=drive.Rejecting(self._pair.target))
        # What only first answers cost is not timed.
        drive.answer(never, some[: self._concurrent], self._concurrent, {})
        alone = drive.answer(self._pair, some, self._concurrent, {"max_rounds": 0})
        rows = []
        for rounds in (1, self._pair.rules.max_rounds):
            run = drive.answer(never, some, self._concurrent, {"max_rounds": rounds})
            rows.append({"rounds": rounds, "time_over_target": run.seconds / alone.seconds})
            self._report.save("all_rejected", {"problems": len(some), "by_rounds": rows})

    def verdicts(self) -> None:
        right = [
            judging.right_tokens(o.text, p)
            for o, p in zip(self._drafts, self._problems, strict=True)
        ]
        cuts: dict[str, dict[str, Any]] = {"lines": {"cut_at": "sentence", "stride": 8}}
        cuts |= {str(stride): {"cut_at": "stride", "stride": stride} for stride in STRIDES}
        tables = {}
        for name, changes in cuts.items():
            # Verdicts depend on no threshold, and where all is kept the target writes little.
            changes = {**changes, "max_rounds": 1, "threshold": 0.0}
            run = drive.answer(self._pair, self._problems, self._concurrent, changes)
            first = [o.statistics.verdicts[0] for o in run.outcomes]
            tables[name] = judging.table(first, right)
            self._report.save("verdicts", {"by_cuts": tables})

    def sweep(self) -> None:
        rows: list[dict[str, Any]] = []
        for rule in ("first-failure", "longest-accepted"):
            for value in sorted({*SWEEP, self._threshold}):
                changes = {"threshold": value, "selection": rule}
                run = drive.answer(self._pair, self._problems, self._concurrent, changes)
                found = row([run], self._problems)
                rows.append({"selection": rule, "threshold": value, **found})
                say(f"{rule} {value} {found['accuracy']['share']:.4f} {run.seconds:.1f} s")
                self._report.save("sweep", {"rows": rows})


class _Separate:
    """A target that can also judge one prefix by a prefill of its own."""

    def __init__(self, target: Any) -> None:
        self._inner = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def separate(self, tokens: list[int], words: tuple[int, int]) -> float:
        """P(yes) / (P(yes) + P(no)) after `tokens`."""
        [logits] = self._inner.prefill_all([Chunk(0, tokens, 0, Sampling(), scored=True)])
        yes, no = (float(logits[word]) for word in words)
        return float(1 / (1 + np.exp(no - yes)))


def device(target: str) -> str:
    """What the engine runs on."""
    if target == "host":
        return "CPU"
    import torch

    return torch.cuda.get_device_name()
