"""Draws docs/parse-judge.svg: accuracy against speed, and verdicts of right and wrong drafts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from benchmarks.report import RESULTS

DOCS = Path(__file__).parents[2] / "docs"


def run(
    results: Annotated[
        Path, Option(help="What the benchmark parse-judge has written.", exists=True)
    ] = RESULTS / "parse_judge.json",
    output: Annotated[Path, Option("--output", "-o", metavar="FILE", help="An SVG.")] = DOCS
    / "parse-judge.svg",
) -> None:
    """Draw a row of two panels for each pair, as far as measured."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
    others = [found.get(name) for name in ("weak", "control")]
    pairs = [part for part in (found, *others) if part and "histograms" in part]
    figure = Figure(figsize=(10, 3.6 * len(pairs)), layout="constrained")
    FigureCanvasAgg(figure)
    for part, (left, right) in zip(
        pairs, figure.subplots(len(pairs), 2, squeeze=False), strict=True
    ):
        title = f"{part['target']} with {part['draft']}, {part['device']}, {part['date'][:10]}"
        left.set_title(title, fontsize=8, loc="left")
        if "methods" in part:
            _methods(left, next(iter(part["methods"].values())))
        else:
            left.set_axis_off()
            left.text(0, 0.5, "methods were not measured")
        _histograms(right, part["histograms"])
    figure.savefig(output)


def _methods(axes: Any, rows: dict[str, Any]) -> None:
    for name, row in rows.items():
        share = row["accuracy"]
        sides = [[share["share"] - share["low"]], [share["high"] - share["share"]]]
        axes.errorbar([row["gain"]], [share["share"]], sides, fmt="o", capsize=3, label=name)
    axes.set(xscale="log", xlabel="throughput over the target alone")
    axes.set_ylabel("right answers (95 % interval)")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)


def _histograms(axes: Any, counts: dict[str, list[int]]) -> None:
    for name, shift in (("right", 0.0), ("wrong", 0.045)):
        places = [0.005 + shift + i / 10 for i in range(10)]
        axes.bar(places, counts[name], 0.045, align="edge", label=f"{name} drafts")
    axes.set(xlabel="calibrated verdict on the whole draft (cross-validated)", ylabel="drafts")
    axes.legend(fontsize=8)
