"""FLy's rule for drafted tokens: against its words, and in extend passes."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from parse_models import GREEDY, eager, logits, save

from foundryrt.errors import UsageError
from parse_runtime.capture.record import Settings
from parse_runtime.engine.batch import Batch
from parse_runtime.kernels.loose import entropy_share
from parse_runtime.models.loose import LooseRule


def by_words(
    tokens: list[int], choices: list[int], entropy: list[float], rule: LooseRule
) -> list[int]:
    """The choices of one chain with what stays."""
    found = list(choices)
    for row in range(len(tokens) - 1):
        behind = range(row + 1, row + 1 + rule.window)
        unsure = behind[-1] < len(tokens) - 1 and entropy[row] >= rule.entropy
        if unsure and all(tokens[i + 1] == choices[i] for i in behind):
            found[row] = tokens[row + 1]
    return found


@settings(max_examples=80)
@given(data=st.data(), rows=st.integers(3, 9), batch=st.integers(1, 3))
def test_a_token_stays_where_the_model_is_unsure_and_goes_on_agreeing(
    data: st.DataObject, rows: int, batch: int
) -> None:
    rule = LooseRule(data.draw(st.integers(1, rows - 2)), 0.5)
    ids = st.lists(st.lists(st.integers(0, 1), min_size=rows, max_size=rows), min_size=batch,
                   max_size=batch)  # fmt: skip
    tokens, choices = torch.tensor(data.draw(ids)), torch.tensor(data.draw(ids))
    sure = torch.tensor(data.draw(ids)).flatten()[:, None].bool()
    scores = torch.where(sure, torch.tensor([9.0, 0, 0, 0]), torch.zeros(4))
    found = rule.choices(tokens, choices, scores)
    entropy = (~sure.view(batch, rows)).double().tolist()
    for i in range(batch):
        should = by_words(tokens[i].tolist(), choices[i].tolist(), entropy[i], rule)
        assert found[i].tolist() == should


def test_entropy_is_a_share_of_the_largest() -> None:
    scores = torch.tensor([[0.0, 0, 0, 0], [0.0, 0, -99, -99], [50.0, 0, 0, 0]])
    assert entropy_share(scores).tolist() == pytest.approx(
        [1, math.log(2) / math.log(4), 0], abs=1e-6
    )


def test_extend_passes_keep_what_the_rule_lets_stay(tmp_path: Path) -> None:
    """One wrong token in a chain of the model's own, with the least entropy 0 and with 1."""
    save(tmp_path, "llama")
    for entropy in (0.0, 1.0):
        s = Settings(
            model=str(tmp_path), max_len=64, prefill="16", verify="8x1", speculate="draft",
            eagle_depth=6, fly_window=2, fly_entropy=entropy,
        )  # fmt: skip
        session, target, _, _ = eager(s)
        target._proposer = None
        prompt = [3, 1, 4]
        first = target.prefill(0, prompt, 0, GREEDY)
        wrong = (int(logits(target, [*prompt, first]).argmax()) + 1) % 256
        chain = [wrong]
        while len(chain) < 6:
            chain.append(int(logits(target, [*prompt, first, *chain]).argmax()))
        last = int(logits(target, [*prompt, first, *chain]).argmax())
        drafts = target._signature.drafts.initial.copy()
        drafts[0, 0, 1:] = chain
        session.write("target.tree", drafts)
        target.prefill(0, prompt, 0, GREEDY)
        found = target.extend(Batch([0], [first], [3], [GREEDY]))[0]
        if entropy == 0:
            assert found == [*chain, last]
            # The cache holds the drafted tokens' rows.
            after = target.decode(Batch([0], [last], [10], [GREEDY]))[0]
            assert after == int(np.argmax(logits(target, [*prompt, first, *chain, last])))
        else:
            assert found == [int(logits(target, [*prompt, first]).argmax())]


@pytest.mark.parametrize(
    "values",
    [
        {"fly_window": 2}, {"fly_window": 4, "speculate": "draft"}, {"fly_window": -1},
        {"fly_entropy": 1.5}, {"fly_window": 1, "eagle": "x", "eagle_width": 2},
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="fly-"):
        Settings(model="x", **values)  # type: ignore[arg-type]
