"""Which bundles answers go on with; where the caches differ, tests/host/test_parse_switch.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from foundryrt.errors import UsageError
from parse_runtime.graphs.continuing import shared_regions

SETTINGS = {
    "evidence": "", "evidence_share": 0.5, "eagle_depth": 4, "eagle_width": 1, "fly_window": 0,
    "fly_entropy": 0.0, "stride": 8, "run_ahead": True, "yes": "Yes", "no": "No",
    "dtype": "float32",
}  # fmt: skip


def bundle(
    *without: str, ranks: object = None, drafts: int = 1, **changes: object
) -> SimpleNamespace:
    """Of regions that are alike, in that there are none."""
    settings = {name: value for name, value in SETTINGS.items() if name not in without} | changes
    sizes = [{"len": 128, "cuts": 4}, {"len": 512, "cuts": 4, "drafts": drafts}]
    manifest = SimpleNamespace(
        graphs=[SimpleNamespace(name="target.verify", key=key) for key in sizes],
        workload=SimpleNamespace(name="parse", settings=settings), regions=(), tensors=(),
        weights=SimpleNamespace(recipes=(), sources=()), ranks=ranks,
    )  # fmt: skip
    return SimpleNamespace(manifest=manifest, sections=())


@pytest.mark.parametrize(
    ("other", "continues"),
    [
        (bundle(stride=4), True),
        (bundle(run_ahead=False), True),
        (bundle("run_ahead"), True),
        (bundle(fly_window=6), False),
        (bundle(evidence="0"), False),
        (bundle(yes="Right"), False),
        (bundle(fp8_activations=False), True),
        (bundle(fp8_activations=True), False),
        # Verdicts under way are made of what the target was asked about.
        (bundle(evidence_share=1.0), False),
        # As of before 2026-11-29: what is called evidence there is taken for none.
        (bundle("evidence_share"), False),
        # A draft is asked about another number of tokens where some share passes.
        (bundle(drafts=4), False),
    ],
)
def test_answers_go_on_where_their_tokens_are_the_same(
    other: SimpleNamespace, continues: bool
) -> None:
    for pair in ((bundle(), other), (other, bundle())):
        assert ("state" in shared_regions(*pair)) == continues  # type: ignore[arg-type]


def test_ranks_share_nothing_and_have_one_dtype() -> None:
    two, alone = bundle(ranks="two"), bundle()
    for pair in ((two, alone), (alone, two), (two, two)):
        assert shared_regions(*pair) == []  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="computes in bfloat16, the one that is served float32"):
        shared_regions(two, bundle(dtype="bfloat16"))  # type: ignore[arg-type]
