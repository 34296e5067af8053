"""A plot of accuracy against speed: `python -m benchmarks.arith.plot RESULTS.json OUT.svg`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Every method with its interval; a panel for each number of answers at a time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    results: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    keys = sorted(name for name in results if name.startswith("batch_"))
    figure = Figure(figsize=(7, 1 + 2.8 * len(keys)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(keys), sharex=True, sharey=True, squeeze=False)[:, 0]
    for key, axes in zip(keys, panels, strict=True):
        part = results[key]
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
    about = results[keys[0]]
    figure.suptitle(f"benchmarks/arith, {about['device']}, {about['date'][:10]}")
    figure.savefig(sys.argv[2])


if __name__ == "__main__":
    main()
