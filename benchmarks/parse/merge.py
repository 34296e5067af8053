"""parse.json: figures of the arithmetic pair and of real geometry, merged.

Every figure keeps the device and the date of the run that it is from. A figure that was not
measured is null; `not_run` says what of its part was left out, and why.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS, Output, write_results

_GEOMETRY = {
    "one_pass_over_prefill": "verify",
    "one_pass_over_sequential": "verify",
    "decode_over_bandwidth": "decode",
    "over_transformers": "peers",
    "over_assisted": "peers",
    "gain_by_acceptance": "gain",
}


def run(output: Output = RESULTS / "parse.json") -> None:
    """Merge parse_geometry.json and parse_arith.json into the figures of PARSE."""
    write_results(output, merged(RESULTS))
    print(output)


def merged(folder: Path) -> dict[str, Any]:
    """The figures of parse.json, of the results in a folder."""
    geometry, arith = (_read(folder / f"parse_{name}.json") for name in ("geometry", "arith"))
    found = {name: _figure(geometry.get(part, {}), name) for name, part in _GEOMETRY.items()}
    for name, method in (("", "parse"), ("_eagle3", "parse+eagle3")):
        found[f"throughput_gain{name}"] = _gain(arith, method)
    found["verdict_max_abs_diff"] = _figure(arith.get("verdict_max_abs_diff", {}), "value")
    return found


def _gain(arith: dict[str, Any], method: str) -> dict[str, Any]:
    """Over the target alone, one answer at a time, with both accuracies and their intervals."""
    part = arith.get("batch_1", {})
    if method not in part.get("methods", {}):
        return _figure(part, method)
    ours, alone = part["methods"][method], part["methods"]["target"]
    found = _figure({**part, method: ours["gain"]}, method)
    return {**found, "accuracy": ours["accuracy"], "accuracy_target": alone["accuracy"]}


def _figure(part: dict[str, Any], name: str) -> dict[str, Any]:
    found = {"value": part.get(name), "device": part.get("device"), "date": part.get("date")}
    if "not_run" in part:
        found["not_run"] = part["not_run"]
    elif found["value"] is None:
        found["not_run"] = "left out of the run of that date" if part else "never run"
    return found


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
