"""A verify pass as arrays: its inputs for some verifications, and what it found about each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundryrt.protocols import Launchable
from parse_runtime.engine.judge import SELECTIONS, whole_first
from parse_runtime.engine.protocols import Verdict, Verification
from parse_runtime.signature.evidence import Evidence
from parse_runtime.signature.passes import PassSignature
from parse_runtime.signature.plan import (
    ALIGNMENT,
    Judged,
    packed_verifications,
    scored_tokens,
    verification_plan,
)
from parse_runtime.signature.sizes import PassSizes


def verify_inputs(
    signature: PassSignature,
    sizes: PassSizes,
    wanted: Mapping[int, Verification],
    carried: NDArray[np.float32] | None = None,
) -> dict[str, NDArray[Any]]:
    """Inputs of `ModelSignature.verify` by name, for as many verifications as the pass takes.

    They are given by slot. `carried` is what earlier passes found about the only one.
    """
    length, drafts = signature.key["len"], signature.key.get("drafts", 1)
    values: dict[str, NDArray[Any]] = {
        name: given.initial.copy() for name, given in signature.inputs.items()
    }
    parts = [Judged(v.shared_prefix, v.start, v.suffix, v.cuts) for v in wanted.values()]
    layout = length, sizes.max_len, sizes.scratch_row
    if drafts > 1:
        values["plan"], begins, ends = packed_verifications(parts, *layout)
    else:
        values["plan"], last = verification_plan(*parts[0], *layout)
        begins, ends = [0], [last]
    # Views with a size for the drafts, which a pass of one lacks.
    each = {name: values[name].reshape(drafts, -1) for name in ("wanted", "threshold")}
    rule = values["rule"].reshape(2, drafts)
    for i, (slot, one) in enumerate(wanted.items()):
        each["wanted"][i, : len(ends[i])] = ends[i]
        each["threshold"][i] = one.threshold
        rule[:, i] = len(one.cuts), one.rule
        first = begins[i] // ALIGNMENT
        count = -(-one.rows // ALIGNMENT) if drafts > 1 else 1
        values["slots"][first : first + count] = slot
        if one.score:
            values["score"].reshape(drafts, -1)[i] = one.score.packed
            scored = values["scored"].reshape(4, drafts, -1)[:, i]
            scored[:] = scored_tokens(one.shared_prefix, one.start, one.drafted, one.cuts, scored)
            if drafts > 1:
                scored[0] += begins[i]
                scored[3] += slot * (sizes.max_len + 1)
            if carried is not None:
                values["carried"].reshape(drafts, *carried.shape)[i] = carried
    return values


def found_by(graph: Launchable, wanted: Mapping[int, Verification]) -> list[Verdict]:
    """What a pass that was launched found about each; evidence has a row for each cut it takes."""
    kept, verdicts = graph.read("kept"), graph.read("verdicts")
    verdicts = verdicts.reshape(len(kept), -1)
    evidence = None
    if any(one.score for one in wanted.values()):
        evidence = graph.read("evidence").reshape(*verdicts.shape, -1)
    return [
        Verdict(
            one.cuts[kept[i] - 1] if kept[i] else 0,
            verdicts[i, : len(one.cuts)].tolist(),
            evidence[i] if one.score and evidence is not None else None,
        )
        for i, one in enumerate(wanted.values())
    ]


def concluded(verification: Verification, found: Sequence[Verdict]) -> Verdict:
    """Of the passes that a verification took."""
    rows = [one.evidence[: len(one.verdicts)] for one in found if one.evidence is not None]
    evidence: Evidence | None = np.concatenate(rows) if rows else None
    whole = verification.score.whole if verification.score else None
    if len(found) == 1 and not whole:
        return replace(found[0], evidence=evidence)
    verdicts = [verdict for one in found for verdict in one.verdicts]
    # As the graphs compare.
    threshold = float(np.float32(verification.threshold))
    if whole:
        assert evidence is not None
        verdicts[-1] = whole.verdict(evidence[-1])
        kept = whole_first(verification.cuts, verdicts, threshold, verification.rule)
    else:
        kept = SELECTIONS[verification.rule](verification.cuts, verdicts, threshold)
    return Verdict(kept, verdicts, evidence)
