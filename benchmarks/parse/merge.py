"""benchmarks/results/parse.json of the results of the arithmetic pair and of real geometry.

    python -m benchmarks.parse.merge

Every figure keeps the device and the date of the run that it is from. A figure that was not
measured is null; `not_run` says what of its part was left out, and why.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
_GEOMETRY = {
    "one_pass_over_prefill": "verify",
    "one_pass_over_sequential": "verify",
    "decode_over_bandwidth": "decode",
    "over_transformers": "peers",
    "over_assisted": "peers",
    "gain_by_acceptance": "gain",
}


def main() -> None:
    """Read the two files, write the third."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    geometry, arith = _read("parse_geometry"), _read("parse_arith")
    merged: dict[str, Any] = {}
    for name, part in _GEOMETRY.items():
        merged[name] = _figure(geometry.get(part, {}), name)
    for name, method in (("", "parse"), ("_eagle3", "parse+eagle3")):
        merged[f"throughput_gain{name}"] = _gain(arith, method)
    merged["verdict_max_abs_diff"] = _figure(arith, "verdict_max_abs_diff")
    path = RESULTS / "parse.json"
    path.write_text(json.dumps(merged, indent=1) + "\n", encoding="utf-8")
    print(path)


def _gain(arith: dict[str, Any], method: str) -> dict[str, Any]:
    """Over the target alone, one answer at a time, with both accuracies and their intervals."""
    methods = arith.get("batch_1", {})
    if method not in methods:
        return _figure(arith, method)
    ours, alone = methods[method], methods["target"]
    found = _figure({**arith, method: ours["gain"]}, method)
    return {**found, "accuracy": ours["accuracy"], "accuracy_target": alone["accuracy"]}


def _figure(part: dict[str, Any], name: str) -> dict[str, Any]:
    found = {"value": part.get(name), "device": part.get("device"), "date": part.get("date")}
    if "not_run" in part:
        found["not_run"] = part["not_run"]
    elif found["value"] is None:
        found["not_run"] = "left out of the run of that date"
    return found


def _read(name: str) -> dict[str, Any]:
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return {"not_run": f"{path.name} is missing"}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    main()
