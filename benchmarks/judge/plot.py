"""Draws docs/parse-judge.svg: accuracy against speed, and verdicts of right and wrong drafts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from benchmarks.arith.plot import panel
from benchmarks.report import RESULTS

DOCS = Path(__file__).parents[2] / "docs"
_BATCHES = (1, 4, 16)


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
    pairs = [found]
    if control.exists():
        pairs += _trained(json.loads(control.read_text(encoding="utf-8")))
    figure = Figure(figsize=(22, 3.8 * len(pairs)), layout="constrained")
    FigureCanvasAgg(figure)
    rows_of_panels = figure.subplots(len(pairs), len(_BATCHES) + 1, squeeze=False)
    for part, panels in zip(pairs, rows_of_panels, strict=True):
        for axes in panels[:-1]:
            axes.set_axis_off()
        title = f"{part['target']} with {part['draft']}, {part['device']}, {part['date'][:10]}"
        panels[0].set_title(title, fontsize=9, loc="left")
        for axes, batch in zip(panels, _BATCHES, strict=False):
            if rows := part.get("methods", {}).get(f"batch_{batch}"):
                axes.set_axis_on()
                panel(axes, rows)
                axes.set_xlabel(f"throughput over the target alone, {batch} at a time")
        _histograms(panels[-1], part["histograms"])
    figure.savefig(output)


def _trained(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The trained pair, where it was calibrated, as the others are told."""
    if "calibration" not in found:
        return []
    methods = {name: part["methods"] for name, part in found.items() if name.startswith("batch_")}
    about = {"target": "trained target", "draft": "trained draft", "methods": methods}
    return [{**found["calibration"], **about}]


def _histograms(axes: Any, counts: dict[str, list[int]]) -> None:
    for name, shift in (("right", 0.0), ("wrong", 0.045)):
        places = [0.005 + shift + i / 10 for i in range(10)]
        axes.bar(places, counts[name], 0.045, align="edge", label=f"{name} drafts")
    axes.set(xlabel="calibrated verdict on the whole draft (cross-validated)", ylabel="drafts")
    axes.legend(fontsize=8)
