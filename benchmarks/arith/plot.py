"""A plot of accuracy against speed: `python -m benchmarks.arith.plot RESULTS.json OUT.svg`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Every method of every batch, with its interval; a line a batch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    results: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    keys = sorted(name for name in results if name.startswith("batch_"))
    about = results[keys[0]]
    for key in keys:
        rows = results[key]["methods"]
        color = f"C{len(axes.containers)}"
        label = f"{key.removeprefix('batch_')} at a time"
        shares = [row["accuracy"] for row in rows.values()]
        gains = [row["gain"] for row in rows.values()]
        middle = [share["share"] for share in shares]
        low = [share["share"] - share["low"] for share in shares]
        high = [share["high"] - share["share"] for share in shares]
        axes.errorbar(gains, middle, (low, high), fmt="o", color=color, capsize=3, label=label)
        for name, x, y in zip(rows, gains, middle, strict=True):
            axes.annotate(name, (x, y), (5, 4), textcoords="offset points", fontsize=8)
    axes.set(
        xlabel="throughput over the target alone", ylabel="right answers (95 % interval)",
        xscale="log", title=f"benchmarks/arith, {about['device']}, {about['date'][:10]}",
    )  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(sys.argv[2])


if __name__ == "__main__":
    main()
