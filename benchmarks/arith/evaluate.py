"""Accuracy against speed of the trained pair, by the engine over captured bundles.

    python -m benchmarks.arith.evaluate --target cuda --out benchmarks/results/parse_arith.json

All methods answer the same problems in turn, chunk by chunk, in one process; a throughput is the
median over the chunks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arith import bundles, drive, judging
from benchmarks.arith.interval import share
from benchmarks.arith.task import grade
from foundryrt.session import Session
from parse_runtime.loading import Loaded, load
from parse_runtime.roles import Sampling

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "target": ("pair", {"max_rounds": 0}),
    "draft": ("draft", {"max_rounds": 0}),
    "target+eagle3": ("eagle3", {"max_rounds": 0}),
    "parse": ("pair", {}),
    "parse+eagle3": ("eagle3", {}),
}
STRIDES = (4, 8, 16, 32)
SWEEP = (0.0, 0.01, 0.1, 0.9, 0.99)


def main() -> None:
    """Capture, answer, judge; JSON to the file and a table to stderr."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=bundles.WEIGHTS)
    parser.add_argument("--target", choices=["host", "cuda"], default="host")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--chunks", type=int, default=4)
    parser.add_argument("--concurrent", default="1", help="answers at a time, such as 1,16")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--eagle-depth", type=int, default=5)
    parser.add_argument("--eagle-width", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--brief", action="store_true", help="the methods only")
    a = parser.parse_args()
    at_a_time = [int(part) for part in a.concurrent.split(",")]
    report: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": _device(a.target),
        "dtype": a.dtype,
        "threshold": a.threshold,
        "eagle": {"depth": a.eagle_depth, "width": a.eagle_width},
    }
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        paths = bundles.capture(
            Path(folder), a.weights, a.target, a.dtype, max(at_a_time), a.eagle_depth,
            a.eagle_width,
        )  # fmt: skip
        loaded = {}
        for name, path in paths.items():
            loaded[name] = _open(stack.enter_context(Session.open(path)))
        problems = drive.draw(a.problems, a.seed)
        for concurrent in at_a_time:
            methods = _methods(loaded, problems, a.chunks, concurrent, a.threshold)
            report[f"batch_{concurrent}"] = methods
            _write(report, a.out)
        if not a.brief:
            concurrent = at_a_time[-1]
            for name, part in _parts(loaded, problems, concurrent, a.threshold).items():
                report[name] = part()
                _write(report, a.out)


def _open(session: Session) -> Loaded:
    loaded = load(session)
    return replace(loaded, target=_Separate(session, loaded.target))


def _methods(
    loaded: dict[str, Loaded], problems: list[drive.Problem], chunks: int, concurrent: int,
    threshold: float,
) -> dict[str, Any]:  # fmt: skip
    """Each method's accuracy, speed and counts."""
    runs: dict[str, list[drive.Run]] = {name: [] for name in METHODS}
    size = -(-len(problems) // chunks)
    for bundle, changes in METHODS.values():
        drive.answer(loaded[bundle], problems[:concurrent], concurrent, changes)
    for begin in range(0, len(problems), size):
        for name, (bundle, changes) in METHODS.items():
            chunk = problems[begin : begin + size]
            changes = {"threshold": threshold, **changes}
            runs[name].append(drive.answer(loaded[bundle], chunk, concurrent, changes))
    result = {name: _method(found, problems) for name, found in runs.items()}
    for name, row in result.items():
        pairs = zip(runs[name], runs["target"], strict=True)
        row["gain"] = statistics.median(base.seconds / run.seconds for run, base in pairs)
        accuracy, rate = row["accuracy"]["share"], row["tokens_per_second"]
        line = f"{concurrent:3} {name:14} {accuracy:.4f} {rate:9.0f} tokens/s  x{row['gain']:.2f}"
        print(line, file=sys.stderr)
    return result


def _method(runs: list[drive.Run], problems: list[drive.Problem]) -> dict[str, Any]:
    outcomes = [outcome for run in runs for outcome in run.outcomes]
    counts = [outcome.statistics for outcome in outcomes]
    right = sum(grade(o.text) == p.number for o, p in zip(outcomes, problems, strict=True))
    rounds, advances = sum(c.rounds for c in counts), sum(c.advances for c in counts)
    drafted = sum(c.drafted for c in counts)
    return {
        "accuracy": share(right, len(problems)),
        "tokens_per_second": statistics.median(run.tokens / run.seconds for run in runs),
        "problems_per_second": statistics.median(len(run.outcomes) / run.seconds for run in runs),
        "rounds": rounds / len(counts),
        "acceptance_length": sum(c.accepted for c in counts) / rounds if rounds else 0.0,
        "accepted_share": sum(c.accepted for c in counts) / drafted if drafted else 0.0,
        "tokens_per_advance": sum(c.advanced for c in counts) / advances if advances else 0.0,
        "seconds": {
            part: sum(getattr(c, f"{part}_seconds") for c in counts) / len(counts)
            for part in ("prefill", "draft", "verify", "resume")
        },
    }


def _parts(
    loaded: dict[str, Loaded], problems: list[drive.Problem], concurrent: int, threshold: float
) -> dict[str, Callable[[], Any]]:
    pair = loaded["pair"]
    drafts = drive.answer(loaded["draft"], problems, concurrent, {"max_rounds": 0}).outcomes
    right = [judging.right_tokens(o.text, p) for o, p in zip(drafts, problems, strict=True)]

    def verdicts() -> dict[str, Any]:
        cuts = {"lines": {"cut_at": "sentence", "stride": 8}}
        cuts |= {str(stride): {"cut_at": "stride", "stride": stride} for stride in STRIDES}
        tables = {}
        for name, changes in cuts.items():
            run = drive.answer(pair, problems, concurrent, {**changes, "max_rounds": 1})
            first = [o.statistics.verdicts[0] for o in run.outcomes]
            tables[name] = judging.table(first, right)
        return tables

    def sweep() -> list[dict[str, Any]]:
        rows = []
        for rule in ("first-failure", "longest-accepted"):
            for value in sorted({*SWEEP, threshold}):
                changes = {"threshold": value, "selection": rule}
                row = _method([drive.answer(pair, problems, concurrent, changes)], problems)
                rows.append({"selection": rule, "threshold": value, **row})
        return rows

    def rejected() -> dict[str, float]:
        alone = drive.answer(pair, problems, concurrent, {"max_rounds": 0})
        never = replace(pair, target=drive.Rejecting(pair.target))
        run = drive.answer(never, problems, concurrent, {"max_rounds": 1})
        return {"time_over_target": run.seconds / alone.seconds, "rounds": 1}

    def difference() -> float:
        tokenizer, chat = pair.prompts.target.tokenizer, pair.prompts.target.chat
        suffix = tokenizer.encode(chat.judge_suffix("", pair.rules.judge_prompt))
        cases = []
        for outcome in drafts[:32]:
            draft = tokenizer.encode(outcome.text)[: bundles.MAX_NEW_TOKENS]
            cases.append((list(outcome.request.prompt), draft, list(range(8, len(draft), 16))))
        words = (tokenizer.single("Yes"), tokenizer.single("No"))
        return judging.one_pass_difference(pair.target, cases, suffix, words)

    return {
        "verdict_max_abs_diff": difference,
        "all_rejected": rejected,
        "verdicts": verdicts,
        "sweep": sweep,
    }


class _Separate:
    """A target that can also judge one prefix by a prefill of its own."""

    def __init__(self, session: Session, target: Any) -> None:
        self._session, self._inner = session, target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def separate(self, tokens: list[int], words: tuple[int, int]) -> float:
        """P(yes) / (P(yes) + P(no)) after `tokens`."""
        self._inner.prefill(0, tokens, 0, Sampling())
        lengths = sorted(int(k["len"]) for g, k in self._session.graphs if g == "target.prefill")
        rest = len(tokens) % lengths[-1] or lengths[-1]
        length = next(length for length in lengths if length >= rest)
        logits = self._session.graph("target.prefill", len=length).read("logits")[0]
        yes, no = (float(logits[word]) for word in words)
        return float(1 / (1 + np.exp(no - yes)))


def _device(target: str) -> str:
    if target == "host":
        return "CPU"
    import torch

    return torch.cuda.get_device_name()


def _write(report: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
