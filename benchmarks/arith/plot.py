"""A plot of accuracy against speed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import cycle
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

    found: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
    names = (name for name in found if name.startswith("batch_"))
    keys = sorted(names, key=lambda name: int(name.removeprefix("batch_")))
    figure = Figure(figsize=(8, 1 + 3.4 * len(keys)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(keys), sharex=True, squeeze=False)[:, 0]
    for key, axes in zip(keys, panels, strict=True):
        part = found[key]
        panel(axes, part["methods"])
        axes.set_title(f"{key.removeprefix('batch_')} at a time, {part['problems']} problems",
                       fontsize=9)  # fmt: skip
    panels[-1].set_xlabel("throughput over the target alone")
    about = found[keys[0]]
    figure.suptitle(f"benchmarks/arith, {about['device']}, {about['date'][:10]}")
    figure.savefig(output)


def panel(axes: Any, methods: Mapping[str, Any]) -> None:
    """Draw each method's accuracy over its gain; no two of a panel have one mark and colour."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    for mark, (name, row) in zip(cycle("osD^v<>Pp*Xd"), methods.items(), strict=False):
        share = row["accuracy"]
        sides = [[share["share"] - share["low"]], [share["high"] - share["share"]]]
        axes.errorbar([row["gain"]], [share["share"]], sides, fmt=mark, capsize=3, label=name)
    axes.set(xscale="log", ylabel="right answers (95 % interval)")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5))
