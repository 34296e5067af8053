"""Every target beside what was measured of it.

The verdict is `aim`, `met`, `missed` or `unmeasured`. What was measured on a CPU does not count for
a target of a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table
from typer import BadParameter, Option

from benchmarks.report import RESULTS
from benchmarks.targets import REPORTED, TARGETS, Target

Report = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A target and what was measured of it; None for what is not there."""

    area: str
    target: str
    must: float | str
    aim: float | None
    measured: float | None
    verdict: str
    device: str | None
    date: str | None
    file: str


def verdict(target: Target, measured: float) -> str:
    """Which bound a measurement reaches; a bound itself counts."""
    sign = -1 if target.higher else 1
    if target.aim is not None and sign * measured <= sign * target.aim:
        return "aim"
    if target.must == REPORTED:
        return "met"
    if target.must is True:
        return "met" if measured is True else "missed"
    return "met" if sign * measured <= sign * float(target.must) else "missed"


def walk(report: Any, path: str) -> Iterator[Any]:
    """The report and all that is on a path of keys; in a list, the element of that grid."""
    yield report
    for key in filter(None, path.split("/")):
        if isinstance(report, list):
            report = next((one for one in report if one["grid"] == key), {})
        else:
            report = report[key]
        yield report


def row(target: Target, report: Report) -> Row:
    """What a report says of a target."""
    try:
        parts = list(walk(report, target.path))
        measured = target.figure(parts[-1], report) if target.figure else parts[-1]
    except (KeyError, TypeError):
        measured = None
    about: Report = {}
    if measured is not None:
        # The innermost part that has a device says where and when.
        named = [part for part in parts if isinstance(part, dict) and "device" in part]
        about = named[-1] if named else {}
    device, date = target.device or str(about.get("device", "")), str(about.get("date", ""))[:10]
    if measured is None or (device == "CPU" and not target.cpu):
        found = (None, "unmeasured", None, None)
    else:
        found = (measured, verdict(target, measured), device, date)
    return Row(target.area, target.name, target.must, target.aim, *found, target.file)


def read(path: Path) -> Report:
    """A results file; empty where it is missing. ValueError where it is no JSON object."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def rows(folder: Path) -> list[Row]:
    """Every target, by the results of a folder. BadParameter where a file cannot be read."""
    reports = {}
    for name in dict.fromkeys(target.file for target in TARGETS):
        try:
            reports[name] = read(folder / name)
        except (OSError, ValueError) as error:
            raise BadParameter(f"{folder / name}: {error}", param_hint="--results") from error
    return [row(target, reports[target.file]) for target in TARGETS]


def shown(value: float | str | None, unit: str = "", sign: str = "") -> str:
    """A figure as text; what holds or must hold, as yes or no."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    digits = f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return f"{sign}{digits} {unit}".rstrip()


def run(
    results: Annotated[
        Path, Option(metavar="FOLDER", exists=True, file_okay=False, help="Folder of JSON files.")
    ] = RESULTS,
    as_json: Annotated[bool, Option("--json", help="A list of objects.")] = False,
    measured: Annotated[bool, Option("--measured", help="Leave out what is unmeasured.")] = False,
) -> None:
    """Print every target beside what was measured of it."""
    pairs = [
        (target, one)
        for target, one in zip(TARGETS, rows(results), strict=True)
        if one.verdict != "unmeasured" or not measured
    ]
    if as_json:
        print(json.dumps([asdict(one) for _, one in pairs], indent=1))
        return
    titles = ("area", "target", "must", "aim", "measured", "verdict", "device", "date", "file")
    table = Table(*titles, box=None, pad_edge=False)
    for target, one in pairs:
        sign = "≥ " if target.higher else "≤ "
        table.add_row(
            one.area, one.target, shown(one.must, target.unit, sign), shown(one.aim, target.unit),
            shown(one.measured, target.unit), one.verdict, one.device or "", one.date or "",
            one.file,
        )  # fmt: skip
    console = Console()
    # A pipe has no width of its own.
    (console if console.is_terminal else Console(width=180)).print(table)
