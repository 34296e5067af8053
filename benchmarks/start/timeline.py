"""A cold start as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from benchmarks.report import RESULTS

DOCS = Path(__file__).parents[2] / "docs"
LEFT, WIDTH, ROW = 150, 600, 30


def bars(run: dict[str, Any]) -> list[tuple[str, str, float, float]]:
    """(row, text, from, to) in milliseconds after the process was spawned."""
    marks, steps = run["marks_ms"], run["timeline_ms"]
    return [
        ("Python", "interpreter, imports, manifest", 0, steps["open"]),
        ("driver", "cuInit and context, on a thread", 0, steps["context"]),
        ("first graph", "arena, initial bytes", steps["context"], steps["contents queued"]),
        ("", "cubins, nodes, exec", steps["contents queued"], steps["first graph"]),
        ("launch", "input, launch, logits", marks["open"], marks["first_launch"]),
        ("background", f"{run['graphs']} graphs", steps["first graph"], marks["all_ready"]),
    ]


def draw(report: dict[str, Any], mode: str) -> str:
    """SVG of the example run of a mode."""
    run = report[mode]["example"]
    rows = bars(run)
    end = run["marks_ms"]["all_ready"] * 1.05

    def x(value: float) -> float:
        return LEFT + WIDTH * value / end

    height = ROW * (len(rows) + 2)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 20}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="100%" height="{height}" fill="white"/>',
    ]
    step = next(s for s in (50, 100, 200, 500, 1000) if end / s <= 12)
    for tick in range(0, int(end), step):
        out.append(
            f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="0" y2="{height - ROW}" '
            f'stroke="#ddd"/><text x="{x(tick):.1f}" y="{height - 10}" fill="#555" '
            f'text-anchor="middle">{tick}</text>'
        )
    out.append(f'<text x="10" y="{height - 10}" fill="#555">ms after spawn</text>')
    for index, (row, text, start, stop) in enumerate(rows):
        y = ROW * index + 6
        out.append(f'<text x="10" y="{y + 14}">{row}</text>')
        out.append(
            f'<rect x="{x(start):.1f}" y="{y}" width="{max(x(stop) - x(start), 1):.1f}" '
            f'height="{ROW - 10}" fill="#7aa6d8"/>'
            f'<text x="{x(start) + 4:.1f}" y="{y + 14}">{text}, {stop - start:.0f} ms</text>'
        )
    # Below the bar, where they cross no text.
    y = ROW * len(rows) - 4
    for at, _ in run["ready_ms"]:
        out.append(f'<line x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{y}" y2="{y + 6}" stroke="#234"/>')
    made = f"{report['device']}, driver {report['driver']}, {report['date']}"
    title = f"{report['model']}, {mode}, {made}"
    out.append(f'<text x="{LEFT}" y="{ROW * len(rows) + 18}" font-weight="bold">{title}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def run(
    results: Annotated[
        Path, Option(help="What the benchmark cold-start has written.", exists=True)
    ] = RESULTS / "cold_start.json",
    mode: Annotated[str, Option(help="eager or compile.")] = "eager",
    output: Annotated[Path, Option("--output", "-o", metavar="FILE", help="An SVG.")] = DOCS
    / "materialize.svg",
) -> None:
    """Draw one process of the cold start as a timeline."""
    output.write_text(draw(json.loads(results.read_text()), mode))
