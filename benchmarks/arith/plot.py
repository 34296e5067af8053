"""A plot of accuracy against speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from benchmarks.report import RESULTS

DOCS = Path(__file__).parents[2] / "docs"


def run(
    results: Annotated[
        Path, Option(help="What the benchmark arith has written.", exists=True)
    ] = RESULTS / "parse_arith.json",
    output: Annotated[Path, Option("--output", "-o", metavar="FILE", help="An SVG.")] = DOCS
    / "parse-arith.svg",
) -> None:
    """Draw accuracy against throughput: a panel for each number of answers at a time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    found: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
    keys = sorted(name for name in found if name.startswith("batch_"))
    figure = Figure(figsize=(7, 1 + 2.8 * len(keys)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(keys), sharex=True, sharey=True, squeeze=False)[:, 0]
    for key, axes in zip(keys, panels, strict=True):
        part = found[key]
        for name, row in part["methods"].items():
            share, gain = row["accuracy"], row["gain"]
            sides = [[share["share"] - share["low"]], [share["high"] - share["share"]]]
            axes.errorbar([gain], [share["share"]], sides, fmt="o", color="C0", capsize=3)
            axes.annotate(
                name, (gain, share["low"]), (0, -5), textcoords="offset points", fontsize=8,
                rotation=90, horizontalalignment="center", verticalalignment="top",
            )  # fmt: skip
        axes.set(xscale="log", ylim=(0.5, 1.03), ylabel="right answers (95 % interval)")
        axes.set_title(f"{key.removeprefix('batch_')} at a time, {part['problems']} problems",
                       fontsize=9)  # fmt: skip
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(ScalarFormatter())
        axes.grid(alpha=0.3)
    panels[-1].set_xlabel("throughput over the target alone")
    about = found[keys[0]]
    figure.suptitle(f"benchmarks/arith, {about['device']}, {about['date'][:10]}")
    figure.savefig(output)
