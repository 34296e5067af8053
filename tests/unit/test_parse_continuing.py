"""Which bundles answers go on with; where the caches differ, tests/host/test_parse_switch.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from foundryrt.bundle.schema import (
    GraphEntry,
    Growth,
    Manifest,
    Region,
    Requirements,
    Tensor,
    Workload,
)
from foundryrt.errors import UsageError
from foundryrt.grow import grown
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
        weights=SimpleNamespace(recipes=(), sources=()), ranks=ranks, growing=(),
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


def growing(
    rows: int = 8, captured: int = 5, most: int = 20, refused: str = "", row: int = 4,
    region: str = "foreign 0",
) -> SimpleNamespace:  # fmt: skip
    """With caches of their own memory; of a session that has so many rows of them."""
    plain = bundle()
    cache = Tensor(
        name="target.cache", region=0, offset=0, dtype="float32", shape=(captured, row),
        strides=(row, 1), role="state",
    )  # fmt: skip
    manifest = Manifest(
        format_version=1, target="cuda", workload=Workload(name="parse", settings=SETTINGS),
        requirements=Requirements(memory=0, architecture="sm_90", driver=13000), producer={},
        provenance={}, regions=(Region(region, 0, 4 * captured * row, owner="tensor"),),
        tensors=(cache,), growing=(Growth(tensor=0, most=most, refused=refused),),
        graphs=tuple(
            GraphEntry(graph.name, graph.key, 0, 0, {}) for graph in plain.manifest.graphs
        ),
    )  # fmt: skip
    return SimpleNamespace(manifest=grown(manifest, {"target.cache": rows}), sections=())


@pytest.mark.parametrize(
    ("other", "continues"),
    [
        (growing(rows=5), True),
        (growing(rows=7, captured=7, most=8), True),
        # It cannot have as many blocks, or as few.
        (growing(rows=5, most=7), False),
        (growing(rows=9, captured=9), False),
        (growing(rows=5, refused="why"), False),
        (growing(rows=8, captured=8, refused="why"), True),
        (growing(rows=5, row=8), False),
        (growing(rows=5, region="foreign 1"), False),
        (bundle(), False),
    ],
)
def test_caches_that_grow_are_shared_where_they_may_have_as_many_blocks(
    other: SimpleNamespace, continues: bool
) -> None:
    found = shared_regions(growing(), other)  # type: ignore[arg-type]
    assert found == (["weights", "state", "foreign 0"] if continues else ["weights"])
