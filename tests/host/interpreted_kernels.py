"""Runs the Triton kernels of attention and sampling in Triton's interpreter; prints JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from attention_cases import Case, exact, random_case, rows_visible, step_visible

from parse_runtime.kernels.cuda import attend_rows, attend_step, evidence, likelihood, verdicts
from parse_runtime.kernels.cuda import sample as sampler
from parse_runtime.kernels.evidence import by_cut, least_sure
from parse_runtime.kernels.likelihood import keep_likelihood, token_likelihood
from parse_runtime.kernels.sample import sample, sample_and_step
from parse_runtime.kernels.verdicts import judged as judged_cuts
from parse_runtime.kernels.verdicts import unrounded
from parse_runtime.signature.plan import ALIGNMENT, Judged, causal, packed_verifications
from parse_runtime.signature.sizes import BLOCK

LAYOUTS = [
    (1, 16, 1, 40, False), (2, 80, 9, 70, False), (5, 32, 7, 9, False), (16, 24, 3, 130, False),
    (1, 16, 1, 90, True), (3, 20, 9, 70, True), (2, 16, 3, 200, True),
]  # fmt: skip


def errors() -> dict[str, float]:
    worst = {"rows": 0.0, "step": 0.0}
    for seed, (group, head_dim, length, keys, windowed) in enumerate(LAYOUTS):
        layout = {
            "group": group, "head_dim": head_dim, "length": length, "keys": keys,
            "windowed": windowed,
        }  # fmt: skip
        for batch in (1, 3):
            case = random_case(seed, **layout, batch=batch)
            found = attend_rows.launch(
                case.q, case.cache, case.tables, case.slots, case.rows, case.cuts, case.starts,
                keys, attend_rows.Tiles(16, 16, 4, 2), case.lows, case.scale, case.cap,
            )  # fmt: skip
            expected = exact(case, rows_visible(case))
            worst["rows"] = max(worst["rows"], float((found - expected).norm() / expected.norm()))
        case = random_case(seed, **layout, batch=2)
        found = attend_step.launch(
            case.q, case.cache, case.tables, case.slots, case.cuts, case.starts,
            case.ancestors, keys, length, attend_step.Tiles(32, 16, 16, 4, 2, 7), case.lows,
            case.scale, case.cap,
        )  # fmt: skip
        expected = exact(case, step_visible(case))
        worst["step"] = max(worst["step"], float((found - expected).norm() / expected.norm()))
    return worst


def variations() -> int:
    """Values of a row that change when it is computed alone, by more programs, of fewer keys."""
    differing = 0
    for windowed in (False, True):
        case = random_case(9, length=3, batch=2, group=3, keys=100, windowed=windowed)
        lows = case.lows
        every = (case.q, case.cuts, case.starts, case.ancestors)
        found = []
        for (q, cuts, starts, bits), low, slots, length, programs in (
            (every, lows, case.slots, 3, 5),
            ([x[-1:] for x in every], None if lows is None else lows[-1:], case.slots[-1:], 1, 64),
        ):
            tiles = attend_step.Tiles(32, 16, 16, 4, 2, programs)
            numbers = (slots, cuts, starts, bits, 100, length, tiles, low, case.scale, case.cap)
            found.append(attend_step.launch(q, case.cache, case.tables, *numbers)[-1])
        differing += int((found[0] != found[1]).sum())
    return differing


def row_variations() -> int:
    """Values of a prompt's rows that change when it shares a pass, or has another place in one."""
    differing = 0
    for window in (0, 7):
        case = random_case(5, length=ALIGNMENT, batch=3, group=3, keys=80, windowed=bool(window))
        plans = [
            causal([0] * count, start, ALIGNMENT, 79)
            for count, start in ((32, 40), (9, 0), (20, 3))
        ]
        found = []
        for places in ((0, 1, 2), (2, 0, 1), (1,)):
            _, positions, rows, cuts, starts = torch.from_numpy(
                np.concatenate([plans[i] for i in places], 1)
            ).unbind(0)
            lows = (positions - window + 1).clamp(min=0) if window else None
            if window:
                starts = torch.maximum(starts, rows - window + 1)
            result = attend_rows.launch(
                torch.cat([case.q.split(ALIGNMENT)[i] for i in places]), case.cache, case.tables,
                case.slots[list(places)], rows, cuts, starts, 80,
                attend_rows.Tiles(16, 16, 4, 2), lows, case.scale, case.cap,
            )  # fmt: skip
            found.append(result.split(ALIGNMENT)[places.index(1)][:9])
        differing += sum(int((found[0] != other).sum()) for other in found[1:])
    return differing


def judged() -> tuple[float, int]:
    """Of verifications of several slots in a pass: the error of their rows, and how many values of
    the first change by its place in the pass, or by those beside it."""
    worst, differing = 0.0, 0
    for window in (0, 7):
        found = []
        for order in ((0, 1), (1, 0), (2, 0), (0,), (2, 1)):
            case, begins = verification(order, window)
            result = attend_rows.launch(
                case.q, case.cache, case.tables, case.slots, case.rows, case.cuts, case.starts,
                case.keys, attend_rows.Tiles(16, 64, 4, 2), case.lows, case.scale, case.cap,
            )  # fmt: skip
            expected = exact(case, rows_visible(case))
            worst = max(worst, float((result - expected).norm() / expected.norm()))
            if 0 in order:
                begin = begins[order.index(0)]
                found.append(result[begin : begin + JUDGED[0].rows])
        differing += sum(int((found[0] != other).sum()) for other in found[1:])
    return worst, differing


JUDGED = (
    Judged([0] * 20, 30, [0] * 3, [35, 44, 50]), Judged([0] * 41, 9, [0] * 9, [20, 50]),
    Judged([0] * 9, 81, [0] * 7, [88, 90]),
)  # fmt: skip


def verification(order: tuple[int, ...], window: int) -> tuple[Case, list[int]]:
    """A pass over some of JUDGED, each in the slot of its number, and the first rows of each."""
    scratch, length = 128, 128
    case = random_case(
        6, length=ALIGNMENT, batch=4, group=3, keys=scratch + length, slots=4,
        windowed=bool(window),
    )  # fmt: skip
    plan, begins, _ = packed_verifications([JUDGED[i] for i in order], length, 103, scratch)
    _, positions, rows, cuts, starts = torch.from_numpy(plan).unbind(0)
    if window:
        starts = torch.maximum(starts, rows - window + 1)
    q, tables = torch.zeros_like(case.q), case.tables.clone()
    slots = torch.zeros(length // ALIGNMENT, dtype=torch.int64)
    for i, begin in zip(order, begins, strict=True):
        end = begin + JUDGED[i].rows
        q[begin:end] = case.q[: end - begin] + i
        slots[begin // ALIGNMENT : -(-end // ALIGNMENT)] = i
        # Its suffixes find the same keys and values, wherever they are kept.
        kept = case.tables[i, scratch // BLOCK :]
        tables[i, (scratch + begin) // BLOCK :] = kept[: len(kept) - begin // BLOCK]
    lows = (positions - window + 1).clamp(min=0) if window else None
    found = replace(
        case, q=q, tables=tables, slots=slots, rows=rows, cuts=cuts, starts=starts, lows=lows
    )
    return found, begins


def misread() -> int:
    """Values that change where numbers of rows are broadcast, not written out."""
    case = random_case(4, length=3, keys=40)
    one = torch.full((1,), 20)
    found = []
    for spread in (one.expand(3), one.repeat(3)):
        numbers = (case.slots, spread, spread, spread)
        step = attend_step.launch(case.q, case.cache, case.tables, *numbers, 40, 3)
        own = attend_rows.launch(case.q, case.cache, case.tables, case.slots, *[spread] * 3, 40)
        found.append(torch.cat((step, own)))
    return int((found[0] != found[1]).sum())


def stepped(launch: Callable[..., torch.Tensor]) -> list[list[int]]:
    """Tokens, then the plan of the next step; two of its six rows are padding, one ends."""
    positions = torch.tensor([10, 11, 0, 19, 0, 12])
    cached = torch.tensor([10, 11, 20, 19, 20, 12])
    plan = torch.stack((torch.full_like(positions, 3), positions, cached, cached + 1, cached))
    given = (plan[1], plan, 20) if launch is sampler.launch else (plan, 20)
    return [launch(*rows[:4], *given).tolist(), *plan.tolist()]


def likelihoods() -> float:
    """The largest difference from the same in torch, and 1 where another token is the likeliest."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        logits = (rows[0] * 20).to(dtype)
        logits[1, 500] = logits[1, 4500] = 200.0  # the lowest of equal ones
        tokens = torch.tensor([0, 8999, 77, 4096, 500, int(logits[5].argmin())])
        given = logits, tokens, -100.0
        pairs = zip(likelihood.launch(*given), token_likelihood(*given), strict=True)
        found += [float((ours - theirs).abs().max()) for ours, theirs in pairs]
    return max(found)


def judge_errors() -> tuple[float, int]:
    """The largest difference of verdicts from the same in torch, and kept cuts that differ.

    And log-odds alone that give other bits than the softmax that they are of.
    """
    worst, differing = 0.0, 0
    for seed, (drafts, cuts, columns) in enumerate(((1, 1, 2), (3, 5, 2), (2, 4, 25))):
        g = torch.Generator().manual_seed(seed)
        known = torch.randn(drafts, cuts, columns, generator=g)
        score = torch.randn(drafts, columns + 1, generator=g) if columns > 2 else None
        count = torch.randint(0, cuts + 1, (drafts,), generator=g)
        for rule in (0, 1):
            rest = count, torch.rand(drafts, generator=g), torch.full((drafts,), rule)
            ours, theirs = verdicts.launch(known, score, *rest), judged_cuts(known, score, *rest)
            worst = max(worst, float((ours[0] - theirs[0]).abs().max()))
            differing += int((ours[1] != theirs[1]).sum())
        if score is None:
            odds = torch.cat((known[..., :1] - known[..., 1:], known), -1)
            alone = torch.tensor([[1.0, 0, 0, 0]]).expand(drafts, -1)
            differing += int((verdicts.launch(odds, alone, *rest)[0] != ours[0]).sum())
    return worst, differing


def kept_likelihoods() -> float:
    """The largest difference from the same in torch; a NaN stays."""
    logits, tokens = torch.randn(40, 70) * 9, torch.arange(40) % 70
    logits[4, 4] = -300.0  # below what is kept
    logits[3, 0] = float("nan")
    places, found = torch.randperm(99)[:40], torch.zeros(2, 99)
    logits = logits.repeat(1, 70)  # several chunks
    likelihood.launch_keep(found[0], places, logits, tokens, -100.0)
    keep_likelihood(found[1], places, logits, tokens, -100.0)
    assert int(found.isnan().sum()) == 2
    return float((found[0] - found[1]).nan_to_num().abs().max())


def few_logits() -> float:
    """The largest difference from the same in torch."""
    x, words = torch.randn(3, 1500), torch.randn(2, 1500)
    ours, theirs = verdicts.launch_unrounded(x, words), unrounded(x, words)
    return float((ours - theirs).abs().max() / theirs.abs().max())


def repeated() -> int:
    """Tokens that differ where rows in turn share what they are sampled with."""
    few = [x[:2] for x in rows[1:4]]
    each = [x.repeat_interleave(3) for x in few]
    ours = sampler.launch(rows[0], *few, rows[4])
    return int((ours != sample(rows[0], *each, rows[4])).sum())


def evidence_errors() -> float:
    """The largest difference from the same in torch, and 1 where other tokens are asked about."""
    found = []
    for seed, (count, cuts, asked) in enumerate(((1, 1, 1), (40, 3, 20), (600, 9, 201))):
        g = torch.Generator().manual_seed(seed)
        draft = -torch.stack([torch.randperm(count, generator=g) / count for _ in range(2)])
        segments = torch.randint(0, cuts + 1, (2, count), generator=g).sort().values
        picked = evidence.launch_least_sure(draft, segments, cuts, asked)
        expected = least_sure(draft, segments, cuts, asked)
        # Tokens that count nowhere are equal, and may take each other's place.
        counted = segments < cuts
        same = (picked[1] >= 0)[counted].equal((expected[1] >= 0)[counted])
        number = torch.arange(asked).expand(2, -1)
        found.append(float(not same or not picked[1].gather(1, picked[0]).equal(number)))
        tokens = torch.randint(0, 50, (2, count), generator=g)
        choices = torch.rand(2, asked, generator=g) < 0.5
        choices = torch.where(choices, tokens.gather(1, picked[0]), 3)
        said = -2 * torch.rand(2, asked, generator=g), torch.rand(2, asked, generator=g), choices
        given = (
            torch.randn(2, cuts, 2, generator=g), said, picked[1], tokens, draft, tokens > 25,
            segments, -torch.rand(2, 3, 7, generator=g), 0.3,
        )  # fmt: skip
        ours, theirs = evidence.launch_by_cut(*given), by_cut(*given)
        found.append(float((ours - theirs).abs().max() / theirs.abs().max()))
    unknown = torch.tensor([[0.0, float("nan"), -5.0]])
    found.append(float(evidence.launch_least_sure(unknown, tokens[:1, :3] * 0, 1, 1)[0] != 1))
    return max(found)


generator = torch.Generator().manual_seed(1)
rows = (
    torch.randn(6, 9000, generator=generator) * 3,
    torch.tensor([0.0, 0.7, 1.0, 1.0, 2.0, 0.5]),
    torch.tensor([0.5, 1.0, 0.9, 0.3, 0.8, 0.0]),
    torch.tensor([1, 2**40 + 7, 3, -4, 5, 6]),
    torch.arange(6) + 10,
)
narrow = rows[0].bfloat16()
print(
    json.dumps(
        {
            "errors": errors(),
            "likelihoods": likelihoods(),
            "evidence_errors": evidence_errors(),
            "judge_errors": judge_errors(),
            "kept_likelihoods": kept_likelihoods(),
            "few_logits": few_logits(),
            "repeated": repeated(),
            "variations": variations(),
            "row_variations": row_variations(),
            "judged": judged(),
            "misread": misread(),
            "tokens": sampler.launch(*rows).tolist(),
            "expected_tokens": sample(*rows).tolist(),
            "step_plan": stepped(sampler.launch),
            "expected_step_plan": stepped(sample_and_step),
            "narrow_tokens": sampler.launch(narrow, *rows[1:]).tolist(),
            "expected_narrow_tokens": sample(narrow.float(), *rows[1:]).tolist(),
        }
    )
)
