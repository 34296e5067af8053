"""Figures that a result file does not hold as they are: each of the part it is in and the whole."""

from __future__ import annotations

from typing import Any

LOSS_GRIDS = ("31x37", "64x32")
# With fewer, one answer more or less is over a point of accuracy.
PROBLEMS = 100
POINT = 0.01
"""Of accuracy."""


def accuracy_lost(part: Any, _: Any) -> float | None:
    """Share of right answers that a method has less than the target alone."""
    ours, alone = part["accuracy"], part["accuracy_target"]
    return round(alone["share"] - ours["share"], 6) if ours["count"] >= PROBLEMS else None


def snr_loss(point: Any, report: Any) -> float:
    """In dB at BER 1e-2, of the worse small grid, at the operating point's iterations."""
    losses = {one["grid"]: one["snr_loss_db"] for one in report["snr_loss"]}
    return max(float(losses[grid][f"cg{point['cg_iterations']}"]) for grid in LOSS_GRIDS)


def decoder_loss(loss: Any, report: Any) -> float | None:
    """In dB; None where so few blocks went wrong that there is no interval."""
    return None if report["decoder_loss_ci95"] is None else float(loss)


def equalizer(rows: Any, _: Any) -> float:
    """Time of the equalizer over the roofline of the iterations that it runs."""
    return float(_preconditioned(rows)["over_floor"])


def equalizer_over_plain(rows: Any, _: Any) -> float:
    """The same over that of the iterations that find as much without a preconditioner."""
    return float(_preconditioned(rows)["over_plain_floor"])


def _preconditioned(rows: Any) -> Any:
    """The fastest division with a preconditioner; the first row with one has the iterations."""
    having = [row for row in rows if row["preconditioned"]]
    same = [row for row in having if row["iterations"] == having[0]["iterations"]]
    return min(same, key=lambda row: float(row["us"]))


def without_clusters(grids: Any, _: Any) -> float:
    """Time of the equalizer in the division that is taken, over that with clusters."""
    return max(float(grid["rows"][0]["times"]) for grid in grids)


def over_eagle3(part: Any, _: Any) -> float:
    """Gain of PARSE, with whatever it resumes by, over that of the EAGLE-3 head alone."""
    methods = part["methods"]
    best = max(row["gain"] for name, row in methods.items() if "parse" in name)
    return float(best / methods["target+eagle3"]["gain"])


def over_before(first_launch: float, whole: Any) -> float:
    """Time of the first launch over that of the release before."""
    return float(first_launch / whole["before"]["first_launch"])


def gains_without_loss(part: Any, _: Any) -> bool:
    """Whether both gains are reached, within a point of the target's accuracy."""
    methods = part["methods"]
    least = methods["target"]["accuracy"]["share"] - POINT
    return all(
        methods[name]["gain"] >= gain and methods[name]["accuracy"]["share"] >= least
        for name, gain in (("parse", 4.3), ("parse+eagle3", 4.5))
    )


def given_acceptance(rows: Any, _: Any) -> float | None:
    """Gain at an acceptance of 0.75 of one draft, batch 32, without EAGLE-3, with a question."""
    return _given(rows, 32)


def given_acceptance_by_evidence(rows: Any, _: Any) -> float | None:
    """The same where the judge is not asked."""
    return _given(rows, 0)


def given_acceptance_with_eagle3(rows: Any, _: Any) -> float | None:
    """The same where EAGLE-3 drafts for the target besides."""
    return _given(rows, 0, eagle3=True)


def _given(rows: Any, question: int, eagle3: bool = False) -> float | None:
    wanted = {"batch": 32, "scheme": "parse", "acceptance": 0.75, "question": question}
    found = [
        row["gain"]
        for row in rows
        if wanted.items() <= row.items()
        and (row["eagle3_profile"] != "none") == eagle3
        and row.get("rounds", 1) == 1  # an acceptance is of each draft: of several it says less
    ]
    return float(found[0]) if found else None
