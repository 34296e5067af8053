"""The musts of the issues 3 (cold start), 4 (PARSE) and 5 (Zak-OTFS) beside what was measured.

    python -m benchmarks.summary [--results FOLDER] [--json]

Reads the JSON files of benchmarks/results, or of another folder. The verdict is `aim`, `met` or
`missed`; there is none of what was not measured, or only on a CPU: the musts are of a GPU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
OPERATING_POINT = "16384x32"
LOSS_GRIDS = ("31x37", "64x32")
# With fewer, one answer more or less is over a point of accuracy.
PROBLEMS = 100
Report = dict[str, Any]
Find = Callable[[Report], Any]


@dataclass(frozen=True)
class Must:
    """A figure of an issue: at most (`least`: at least) `must`, better `aim`; where it is found."""

    issue: int
    figure: str
    must: float
    aim: float | None
    find: Find
    least: bool = False


@dataclass(frozen=True)
class Row:
    """A must and what was measured, None where nothing was."""

    issue: int
    figure: str
    sign: str
    must: float
    aim: float | None
    measured: float | None
    verdict: str
    device: str
    date: str


def at(*keys: str) -> Find:
    """What lies at a path of keys."""

    def find(report: Report) -> Any:
        for key in keys:
            report = report[key]
        return report

    return find


def cold_start(mode: str) -> list[Must]:
    """Of cold_start.json; identity counts as 1."""
    return [
        Must(3, f"identical outputs, {mode}", 1, None, at(mode, "identical"), least=True),
        Must(3, f"first launch / floor, {mode}", 2.0, 1.3, at(mode, "first_launch_ratio")),
        Must(3, f"all ready / torch's total, {mode}", 0.10, 0.03, at(mode, "all_ready_ratio")),
        Must(3, f"us a node, {mode}", 8, 3, at(mode, "us_per_node")),
        Must(3, f"replay / torch's replay, {mode}", 1.02, 1.00, at(mode, "replay_ratio")),
        Must(3, f"weights / pinned copy, {mode}", 0.6, 0.9, at(mode, "weights_ratio"), least=True),
    ]


def parse() -> list[Must]:
    """Of parse.json, where every figure has a device and a date of its own."""
    gain, eagle3 = "throughput_gain", "throughput_gain_eagle3"
    return [
        Must(4, "one_pass_over_prefill", 1.25, None, at("one_pass_over_prefill", "value")),
        Must(4, "one_pass_over_sequential", 0.5, None, at("one_pass_over_sequential", "value")),
        Must(4, gain, 1.25, 4.3, at(gain, "value"), least=True),
        Must(4, f"{gain}, accuracy lost", 0.01, None, accuracy_lost(gain)),
        Must(4, eagle3, 1.6, 4.5, at(eagle3, "value"), least=True),
        Must(4, f"{eagle3}, accuracy lost", 0.01, None, accuracy_lost(eagle3)),
        Must(4, "decode_over_bandwidth", 0.7, 0.85, at("decode_over_bandwidth", "value"), True),
    ]


def accuracy_lost(gain: str) -> Find:
    """Share of right answers; None where a point cannot be seen."""

    def find(report: Report) -> float | None:
        ours, alone = report[gain]["accuracy"], report[gain]["accuracy_target"]
        return round(alone["share"] - ours["share"], 6) if ours["count"] >= PROBLEMS else None

    return find


def otfs() -> list[Must]:
    """Of otfs.json, at the operating point."""
    return [
        Must(5, "p99.9 latency / deadline", 1.0, 0.25, operating("p99_9_over_deadline")),
        Must(5, "on time", 0.999, 1.0, operating("on_time"), least=True),
        Must(5, "frames at frame pace", 10_000, None, operating("frames"), least=True),
        Must(5, "flat-out payload, Mbps", 906, 4000, operating("flat_out_payload_mbps"), True),
        Must(5, "SNR loss against LMMSE, dB", 0.2, 0.05, snr_loss),
        Must(5, "compute time / roofline", 4, 1.5, operating("compute_over_roofline")),
    ]


def operating(key: str) -> Find:
    """A figure of the grid that the musts are about."""

    def find(report: Report) -> Any:
        return operating_point(report)[key]

    return find


def operating_point(report: Report) -> Report:
    """What was measured of that grid; nothing where it was not."""
    grids = (grid for grid in report.get("grids", []) if grid["grid"] == OPERATING_POINT)
    return next(grids, {})


def snr_loss(report: Report) -> Any:
    """At BER 1e-2, the worse of the small grids, with the operating point's iterations."""
    key = f"cg{operating('cg_iterations')(report)}"
    losses = {one["grid"]: one["snr_loss_db"] for one in report["snr_loss"]}
    return max(losses[grid][key] for grid in LOSS_GRIDS)


MUSTS = {
    "cold_start.json": [*cold_start("eager"), *cold_start("compile")],
    "parse.json": parse(),
    "otfs.json": otfs(),
}


def source(must: Must, report: Report) -> Report:
    """What has the device and the date of a must that was measured."""
    return report.get(must.figure.partition(",")[0]) or operating_point(report) or report


def row(must: Must, report: Report) -> Row:
    """What a report says of a must."""
    try:
        measured = must.find(report)
    except (KeyError, TypeError):
        measured = None
    run = {} if measured is None else source(must, report)
    device, date = str(run.get("device", "")), str(run.get("date", ""))[:10]
    verdict = ""
    if measured is not None and device != "CPU":
        sign = -1 if must.least else 1
        bounds = [("aim", must.aim), ("met", must.must)]
        reached = [name for name, bound in bounds
                   if bound is not None and sign * measured <= sign * bound]  # fmt: skip
        verdict = [*reached, "missed"][0]
    return Row(
        must.issue, must.figure, ">=" if must.least else "<=", must.must, must.aim,
        None if measured is None else float(measured), verdict, device, date,
    )  # fmt: skip


def read(path: Path) -> Report:
    """A results file; empty where it is missing. ValueError where it is no JSON object."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="The musts of the issues beside the measurements.")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.results.is_dir():
        parser.error(f"{options.results}: no such folder")
    rows = []
    for name, musts in MUSTS.items():
        try:
            report = read(options.results / name)
        except ValueError as error:
            parser.error(f"{options.results / name}: {error}")
        rows += [row(must, report) for must in musts]
    if options.json:
        print(json.dumps([asdict(one) for one in rows], indent=1))
        return
    table = Table("issue", "figure", "must", "aim", "measured", "verdict", "device", "date")
    for one in rows:
        aim = "" if one.aim is None else f"{one.aim:g}"
        measured = "" if one.measured is None else f"{one.measured:.4g}"
        table.add_row(str(one.issue), one.figure, f"{one.sign} {one.must:g}", aim, measured,
                      one.verdict, one.device, one.date)  # fmt: skip
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
