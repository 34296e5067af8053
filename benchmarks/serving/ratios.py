"""The file of a comparison of servers: by part, model and engine, and the ratios of the two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.device import cpu, gpu
from benchmarks.report import today, write_results

MODELS = {"qwen3-0.6b": "0.6B", "qwen3-14b": "14B", "qwen3-32b": "32B"}
"""What the file calls them."""
_RATIO = "over_vllm"


class Results:
    """The file: by part, model and engine, with the ratios that both together give."""

    def __init__(self, path: Path, tiny: bool, ranks: int = 1) -> None:
        self._path, self._ranks = path, ranks
        self._found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self.about = {"device": "CPU" if tiny else gpu(), "date": today(), "cpu": cpu()}
        if not tiny:
            self.about["driver"] = gpu("driver_version")

    def of(self, part: str, model: str, engine: str) -> dict[str, Any]:
        """What was found there."""
        found: dict[str, Any] = (
            self._found.get(part, {}).get(self._short(model), {}).get(engine, {})
        )
        return found

    def save(self, part: str, model: str, engine: str, found: dict[str, Any]) -> None:
        """Write what an engine was found to do, and the ratios again."""
        own = self._found.setdefault(part, {})
        own |= self.about
        one = own.setdefault(
            self._short(model), {"model": f"{model} geometry, random bfloat16 weights"}
        )
        one[engine] = {**self.about, **found}
        _forget(one)
        if "vllm" in one and "ours" in one:
            one |= RATIOS[part](one["ours"], one["vllm"])
        _forget(own)
        rows = [row for row in own.values() if isinstance(row, dict)]
        ratios = sorted({key for row in rows for key in row if key.endswith(_RATIO)})
        if part != "throughput":
            # The worst of the models.
            own |= {key: max(row[key] for row in rows if key in row) for key in ratios}
        write_results(self._path, self._found)

    def _short(self, model: str) -> str:
        """What the file calls a model, and the ranks that share it."""
        ranks = f"_tp{self._ranks}" if self._ranks > 1 else ""
        return MODELS.get(model, model) + ranks


def _forget(part: dict[str, Any]) -> None:
    """Ratios of an earlier run."""
    for key in [key for key in part if _RATIO in key]:
        del part[key]


def throughput_ratios(ours: dict[str, Any], vllm: dict[str, Any]) -> dict[str, Any]:
    """Of tokens a second, by requests at a time, of one day, where no request failed."""
    by = {
        level: row["tokens_per_second"] / other["tokens_per_second"]
        for level, row in ours["at"].items()
        if (other := vllm["at"].get(level))
        and row.get("date") == other.get("date")
        and not row["failed"]
        and not other["failed"]
    }
    return {"over_vllm_at": by, "over_vllm": min(by.values())} if by else {}


def poisson_ratios(ours: dict[str, Any], vllm: dict[str, Any]) -> dict[str, Any]:
    """Of times, where both had the same arrivals and no request failed."""
    if ours["rate"] != vllm["rate"] or ours["failed"] or vllm["failed"]:
        return {}
    return {
        f"{key}_{share}_over_vllm": ours[f"{key}_ms"][share] / vllm[f"{key}_ms"][share]
        for key in ("first_token", "between_tokens")
        for share in ("p50", "p99")
    }


def start_ratios(ours: dict[str, Any], vllm: dict[str, Any]) -> dict[str, Any]:
    """Of the times from the start of a process to its first token."""
    return {"over_vllm": ours["first_token_s"] / vllm["first_token_s"]}


RATIOS = {"start": start_ratios, "throughput": throughput_ratios, "poisson": poisson_ratios}
