"""Draws docs/parse-judge.svg: accuracy against speed, and verdicts of right and wrong drafts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from benchmarks.report import RESULTS

DOCS = Path(__file__).parents[2] / "docs"
_BATCHES = (1, 4, 16)
_MARKS = "osD^v<>Pp*X"


def run(
    results: Annotated[
        Path, Option(help="What judge-pair or parse-judge has written.", exists=True)
    ] = RESULTS / "parse_judge.json",
    control: Annotated[Path, Option(help="What arith has written, of the trained pair.")] = RESULTS
    / "parse_arith.json",
    output: Annotated[Path, Option("--output", "-o", metavar="FILE", help="An SVG.")] = DOCS
    / "parse-judge.svg",
) -> None:
    """Draw a row of panels for each pair: by answers at a time, and verdicts; what is measured."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
    pairs = [part for part in (found, found.get("weak")) if part and "histograms" in part]
    if control.exists():
        pairs += _trained(json.loads(control.read_text(encoding="utf-8")))
    figure = Figure(figsize=(17, 4.4 * len(pairs)), layout="constrained")
    FigureCanvasAgg(figure)
    for part, axes in zip(
        pairs, figure.subplots(len(pairs), len(_BATCHES) + 1, squeeze=False), strict=True
    ):
        for panel in axes[:-1]:
            panel.set_axis_off()
        title = f"{part['target']} with {part['draft']}, {part['device']}, {part['date'][:10]}"
        axes[0].set_title(title, fontsize=9, loc="left")
        for panel, batch in zip(axes, _BATCHES, strict=False):
            if rows := part.get("methods", {}).get(f"batch_{batch}"):
                _methods(panel, rows, batch)
        _histograms(axes[-1], part["histograms"])
    figure.savefig(output)


def _trained(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The trained pair, where it was calibrated, as the others are told."""
    if "calibration" not in found:
        return []
    methods = {name: part["methods"] for name, part in found.items() if name.startswith("batch_")}
    about = {"target": "trained target", "draft": "trained draft", "methods": methods}
    return [{**found["calibration"], **about}]


def _methods(axes: Any, rows: dict[str, Any], batch: int) -> None:
    axes.set_axis_on()
    for number, (name, row) in enumerate(rows.items()):
        share = row["accuracy"]
        sides = [[share["share"] - share["low"]], [share["high"] - share["share"]]]
        axes.errorbar(
            [row["gain"]], [share["share"]], sides, fmt=_MARKS[number % len(_MARKS)], capsize=3,
            label=name,
        )  # fmt: skip
    axes.set(xscale="log", xlabel=f"throughput over the target alone, {batch} at a time")
    axes.set_ylabel("right answers (95 % interval)")
    axes.legend(fontsize=6)
    axes.grid(alpha=0.3)


def _histograms(axes: Any, counts: dict[str, list[int]]) -> None:
    for name, shift in (("right", 0.0), ("wrong", 0.045)):
        places = [0.005 + shift + i / 10 for i in range(10)]
        axes.bar(places, counts[name], 0.045, align="edge", label=f"{name} drafts")
    axes.set(xlabel="calibrated verdict on the whole draft (cross-validated)", ylabel="drafts")
    axes.legend(fontsize=8)
