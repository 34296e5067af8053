"""Verify passes that several drafts share: each draft is judged as if it were alone."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from parse_command import capture
from parse_models import GREEDY, VOCAB, eager, save, save_drafted
from parse_ranks import on_ranks

from foundryrt.bundle.reader import Bundle
from foundryrt.graph import Graph
from foundryrt.session import Session
from parse_runtime.capture.eager import EagerSession
from parse_runtime.capture.record import Settings
from parse_runtime.commands.run import Options, run
from parse_runtime.engine.batch import Batch
from parse_runtime.engine.judge import SELECTIONS
from parse_runtime.engine.protocols import Verdict, Verification
from parse_runtime.graphs.target import GraphTarget
from parse_runtime.signature.evidence import EVIDENCE, LOG_ODDS, Score
from parse_runtime.signature.selection import SelectionRule

Loaded = tuple[EagerSession, GraphTarget]
WORDS, SLOTS = (5, 9), 4
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "mistral": {"sliding_window": 7},
    "gemma2": {"sliding_window": 6, "attn_logit_softcapping": 3.0, "query_pre_attn_scalar": 24},
}
WEIGHTS = (1.0, *np.linspace(-0.2, 0.2, len(EVIDENCE) - 1).tolist())


def chosen(folder: Path, **changes: Any) -> Settings:
    values = {
        "max_len": 64, "slots": SLOTS, "prefill": "32,128", "verify": "60x4,256x4x4",
        "evidence": "30", "evidence_share": 0.25, **changes,
    }  # fmt: skip
    return Settings(model=str(folder), **values)


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp(request.param)
    save(folder, request.param, **FAMILIES[request.param])
    return eager(chosen(folder), WORDS)[:2]


@st.composite
def verifications(draw: st.DrawFn) -> Verification:
    """Of a draft behind a prompt, all of which but its last token is held.

    Without a question the judge's answer counts for nothing.
    """
    tokens = st.integers(0, VOCAB - 1)
    prompt = draw(st.integers(2, 12))
    draft = draw(st.lists(tokens, min_size=1, max_size=24))
    suffix = draw(st.lists(tokens, max_size=6))
    some = draw(st.sets(st.integers(1, len(draft)), max_size=3))
    weights = (WEIGHTS[0] if suffix else 0.0, *WEIGHTS[1:])
    prefixes = Score(weights, draw(st.floats(-1, 1)))
    whole = replace(prefixes, whole=Score(tuple(-weight for weight in weights), 0.1))
    score = draw(st.sampled_from([prefixes, whole, *([None, LOG_ODDS] if suffix else [])]))
    return Verification(
        [7, *draft], prompt - 1, [prompt + cut for cut in sorted(some | {len(draft)})], suffix,
        draw(st.sampled_from([0.3, 0.5, 0.7])), draw(st.sampled_from(SelectionRule)), score, prompt,
    )  # fmt: skip


def fill(target: GraphTarget, wanted: Mapping[int, Verification]) -> None:
    """Put prompts of the slots' own before the drafts."""
    for slot, one in wanted.items():
        target.prefill(slot, [slot + 20 + i for i in range(one.start)], 0, GREEDY)


def following(target: GraphTarget, wanted: Mapping[int, Verification]) -> np.ndarray:
    """Logits of each slot after the first token that it does not hold, one behind the draft."""
    slots, each = list(wanted), wanted.values()
    tokens = [[*one.shared_prefix, 3][one.held - one.start] for one in each]
    ends = [one.held for one in each]
    batch = Batch(slots, tokens, ends, [GREEDY] * len(slots), frozenset(slots))
    return np.stack(target.extend(batch))  # type: ignore[arg-type]


def check(found: Verdict, expected: Verdict, wanted: Verification) -> None:
    assert found.verdicts == pytest.approx(expected.verdicts, abs=1e-4)
    assert (found.evidence is None) == (expected.evidence is None) == (wanted.score is None)
    if found.evidence is not None and expected.evidence is not None:
        columns = slice(0 if wanted.suffix else 1, None)
        should = expected.evidence[:, columns]
        assert found.evidence[:, columns] == pytest.approx(should, rel=2e-3, abs=2e-3)
    if min(abs(verdict - wanted.threshold) for verdict in expected.verdicts) > 1e-3:
        assert found.kept == expected.kept


@settings(max_examples=12, suppress_health_check=list(HealthCheck), deadline=None)
@given(
    st.lists(verifications(), min_size=2, max_size=SLOTS), st.permutations(range(SLOTS)),
    st.integers(0, 9),
)  # fmt: skip
def test_each_draft_has_the_verdicts_that_it_has_alone(
    loaded: Loaded, each: list[Verification], slots: list[int], seed: int
) -> None:
    """Evidence, too, and the slots hold the drafts afterwards."""
    session, target = loaded
    said = session.tensors["draft.likelihood"]
    said.copy_(-torch.rand(said.shape, generator=torch.Generator().manual_seed(seed)))
    wanted = dict(zip(slots, each, strict=False))
    fill(target, wanted)
    alone = [target.verify(slot, one) for slot, one in wanted.items()]
    then = following(target, wanted)
    fill(target, wanted)
    together = target.verify_pass(wanted)
    for found, expected, one in zip(together, alone, wanted.values(), strict=True):
        check(found, expected, one)
    after = following(target, wanted)
    assert np.abs(after - then).max() <= 1e-4 * np.abs(then).max()


def test_a_draft_does_not_change_by_those_beside_it(loaded: Loaded) -> None:
    """One pass takes it among others that are hardly possible, another alone."""
    session, target = loaded
    one = Verification(
        [7, *range(40, 60)], 5, [12, 20, 26], [7, 8], score=Score(WEIGHTS), drafted=6
    )
    rows = [1e4, 0.0]
    found = []
    for likelihood, draft in zip(rows, ([1] * 20, list(range(100, 120))), strict=True):
        other = Verification([7, *draft], 3, [24], [250], 0.0, score=Score((-9.0,) * len(EVIDENCE)))
        session.tensors["draft.likelihood"].fill_(-0.5)
        session.tensors["draft.likelihood"][0].fill_(-likelihood)
        wanted = {0: other, 2: one}
        fill(target, wanted)
        found.append(target.verify_pass(wanted)[1])
    check(*found, one)


def test_each_draft_is_kept_by_its_own_threshold_and_rule(loaded: Loaded) -> None:
    _, target = loaded
    cuts = [8, 11, 14, 17]
    wanted = {
        slot: Verification([7, *range(s, s + 12)], 4, cuts, [61, s])
        for slot, s in ((3, 20), (0, 90), (2, 150), (1, 77))
    }
    fill(target, wanted)
    for slot, one in wanted.items():
        verdicts = target.verify(slot, one).verdicts
        # Some cut is better than one before it: the rules differ.
        rise = max(range(1, 4), key=lambda i: verdicts[i] - min(verdicts[:i]))
        threshold = (verdicts[rise] + min(verdicts[:rise])) / 2
        wanted[slot] = replace(one, threshold=threshold, rule=SelectionRule(slot % 2))
    kept = set()
    for found, one in zip(target.verify_pass(wanted), wanted.values(), strict=True):
        first, longest = (
            SELECTIONS[rule](cuts, found.verdicts, one.threshold) for rule in SelectionRule
        )
        assert first < longest
        assert found.kept == (first if one.rule == SelectionRule.FIRST_FAILURE else longest)
        kept.add(found.kept)
    assert len(kept) > 1


def test_only_drafts_of_which_as_much_is_asked_share_a_pass(tmp_path: Path) -> None:
    """Else a verdict would depend on what else waits by more than rounding."""
    save(tmp_path, "qwen3")
    sizes = "24x2,60x4,64x2x2,256x4x4"
    _, target, _, _ = eager(chosen(tmp_path, verify=sizes, evidence="9,30"), WORDS)
    small = Verification([1, 2, 3], 0, [3], [9])
    large = Verification(list(range(25)), 0, [9, 25], [9])

    def rows(one: Verification) -> list[int]:
        return [size.rows for size in target.shares(one)]

    assert rows(small) == rows(large) == [64, 256]
    assert rows(replace(small, score=LOG_ODDS)) == [64]
    assert rows(replace(large, score=LOG_ODDS)) == [256]
    assert rows(replace(large, cuts=[3, 9, 25])) == [256]
    # What takes several passes alone shares none.
    longer = replace(large, shared_prefix=list(range(61)))
    assert rows(longer) == [] and rows(replace(longer, suffix=[])) == [64, 256]
    with pytest.raises(ValueError, match="no verify pass takes drafts"):
        scored = {0: replace(small, score=LOG_ODDS), 1: replace(large, score=LOG_ODDS)}
        target.verify_pass(scored)
    assert not target.row_tokens[0, 0] >= 0  # Nothing was begun.


@pytest.fixture(scope="module")
def drafted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_drafted(tmp_path_factory.mktemp("drafted"))


THREE = {
    slot: Verification([7, *range(slot, slot + length)], 8, [9 + length], [60, 61], 0.0)
    for slot, length in ((2, 11), (0, 20), (3, 1))
}


@pytest.mark.parametrize("width", [1, 2])
def test_a_head_drafts_on_behind_a_shared_pass_as_behind_one_s_own(
    width: int, drafted: Path
) -> None:
    found = []
    for together in (True, False):
        head = {"eagle": str(drafted / "head"), "eagle_depth": 3, "eagle_width": width}
        target = eager(chosen(drafted / "target", **head), WORDS)[1]
        fill(target, THREE)
        if together:
            target.verify_pass(THREE)
        else:
            for slot, one in THREE.items():
                target.verify(slot, one)
        ends = [one.start + len(one.shared_prefix) for one in THREE.values()]
        tokens, counts = [[3] for _ in THREE], []
        for _ in range(5):
            positions = [end + len(t) - 1 for end, t in zip(ends, tokens, strict=True)]
            batch = Batch(list(THREE), [t[-1] for t in tokens], positions, [GREEDY] * len(THREE))
            more = target.extend(batch)
            counts.append([len(some) for some in more])
            for own, some in zip(tokens, more, strict=True):
                own += some  # type: ignore[arg-type]
        found.append((tokens, counts))
    assert found[0] == found[1]
    # The head has what its drafts need: most are accepted.
    assert sum(map(sum, found[0][1])) > 30


def test_ranks_judge_several_drafts(drafted: Path) -> None:
    own = chosen(drafted / "target", eagle=str(drafted / "head"))

    def found(target: GraphTarget) -> list[float]:
        fill(target, THREE)
        return [verdict.verdicts[0] for verdict in target.verify_pass(THREE)]

    expected = found(eager(own, WORDS)[1])
    assert len({round(verdict, 3) for verdict in expected}) > 1
    for of_rank in on_ranks(2, lambda ranks: found(eager(own, WORDS, ranks=ranks)[1]), 1 << 17):
        assert of_rank == pytest.approx(expected, abs=1e-4)


def watched(session: Session) -> set[tuple[str, int | str]]:
    """Names of the graphs that are taken, and for how many drafts."""
    taken, graph = set(), session.graph

    def watching(name: str, **key: int | str) -> Graph:
        taken.add((name, key.get("drafts", 1)))
        return graph(name, **key)

    session.graph = watching  # type: ignore[method-assign]
    return taken


def test_bundles_with_and_without_such_passes_answer_alike(tmp_path: Path) -> None:
    save(tmp_path / "model", "qwen3")
    lines = [f'{{"prompt": "{"ab" * (3 + 5 * i)}", "max_new_tokens": 12}}' for i in range(5)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    answers = {}
    for sizes in ("48x3,120x6", "48x3,120x6,192x3x3"):
        path = tmp_path / f"{sizes}.fdy"
        rules = {"judge_prompt": "ok?", "yes": "y", "no": "n", "stride": 5, "threshold": 0.4}
        capture(chosen(tmp_path / "model", max_len=96, verify=sizes, evidence="", **rules), path)
        with Bundle.open(path) as bundle:
            names = {tensor.name for tensor in bundle.manifest.tensors}
        assert ("target.verify.192x3x3.slots" in names) == ("x3x3" in sizes)
        with Session.open(path) as session:
            taken = watched(session)
            report = run(session, Options(input=str(tmp_path / "prompts.jsonl")), True)
        assert ("target.verify", 3) in taken if "x3x3" in sizes else ("target.verify", 1) in taken
        answers[sizes] = [(r["text"], r["accepted"]) for r in report["results"]]  # type: ignore[index]
    one, other = answers.values()
    assert one == other and len(one) == 5 and any(accepted for _, accepted in one)
