"""What passes compute, and what a capture registers, is what their signatures say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from parse_models import VOCAB, save, save_head

from parse_runtime.capture.eager import EagerSession
from parse_runtime.capture.parameters import DTYPES
from parse_runtime.capture.passes import Passes
from parse_runtime.capture.record import build
from parse_runtime.capture.settings import Settings
from parse_runtime.graphs.loading import open_models
from parse_runtime.signature.passes import MODEL_DTYPE, VOCABULARY
from parse_runtime.signature.selection import SelectionRule
from parse_runtime.weights.source import open_model

CASES: dict[str, dict[str, object]] = {
    "plain": {},
    "waiting": {"run_ahead": False},
    "bfloat16": {"dtype": "bfloat16", "decode": "2"},
    "draft model": {"speculate": "draft", "eagle_depth": 3},
    "tree": {"eagle": "head", "eagle_depth": 3, "eagle_width": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save(folder / "target", "llama")
    save(folder / "draft", "llama", num_hidden_layers=1)
    save_head(folder / "head", folder / "target")
    return folder


def recorded(folder: Path, case: str) -> tuple[Settings, EagerSession, list[Passes]]:
    values: dict[str, object] = {
        "model": str(folder / "target"), "draft": str(folder / "draft"), "max_len": 40, "slots": 3,
        "prefill": "4,8", "verify": "12x2,20x3,96x3x2", **CASES[case],
    }  # fmt: skip
    if "eagle" in values:
        values["eagle"] = str(folder / "head")
    settings = Settings(**values)  # type: ignore[arg-type]
    session = EagerSession(vars(settings))
    models = open_model(settings.model), open_model(settings.draft)
    passes = build(session.register, settings, *models, (5, 9))
    for one in passes:
        session.add(one)
    return settings, session, passes


@pytest.mark.parametrize("case", CASES)
def test_inputs_and_outputs_are_those_of_the_signature(folder: Path, case: str) -> None:
    settings, session, models = recorded(folder, case)
    for passes in models:
        for signature, run in passes.graphs():
            for found in signature.inputs.values():
                tensor = session.tensors[found.name]
                assert tuple(tensor.shape) == found.shape
                assert str(tensor.dtype) == f"torch.{found.dtype}"
            with torch.inference_mode():
                outputs = run()
            assert list(outputs) == list(signature.outputs)
            for name, output in signature.outputs.items():
                shape = tuple(VOCAB if size == VOCABULARY else size for size in output.shape)
                kind = settings.dtype if output.dtype == MODEL_DTYPE else output.dtype
                assert tuple(outputs[name].shape) == shape
                assert outputs[name].dtype == DTYPES.get(kind, torch.int64)


@pytest.mark.parametrize("case", CASES)
def test_a_session_has_the_signatures_of_its_capture(folder: Path, case: str) -> None:
    _, session, models = recorded(folder, case)
    for passes, opened in zip(models, open_models(session), strict=True):
        theirs, ours = opened._signature, passes.signature
        assert (theirs.model, theirs.head) == (ours.model, ours.head)
        assert theirs.run_ahead == ours.run_ahead == (case != "waiting")
        assert theirs.sizes.batches == ours.sizes.batches
        for name in ("max_len", "slots", "prefill", "verify", "shared", "scored", "tree"):
            assert getattr(theirs.sizes, name) == getattr(ours.sizes, name)


def test_a_selection_rule_keeps_its_number() -> None:
    """Graphs in bundles of earlier captures read it."""
    assert {rule.label: int(rule) for rule in SelectionRule} == {
        "first-failure": 0, "longest-accepted": 1,
    }  # fmt: skip


def test_inputs_keep_their_names(folder: Path) -> None:
    """Bundles of earlier captures have them."""
    _, session, models = recorded(folder, "tree")
    names = {
        found.name
        for passes in models
        for signature, _ in passes.graphs()
        for found in signature.inputs.values()
    }
    expected = {"target.slot"}
    for model in ("target", "draft"):
        sampled = {"sampling", "seeds"}
        for length in (4, 8):
            inputs = {"plan", "wanted", "slots", *sampled} | (
                {"next"} if model == "target" else set()
            )
            expected |= {f"{model}.prefill.{length}.{name}" for name in inputs}
        for batch in (1, 2, 3):
            expected |= {f"{model}.decode.{batch}.{n}" for n in ("plan", "slots", *sampled)}
            if model == "target":
                expected |= {f"target.extend.{batch}.{n}" for n in ("roots", "slots", *sampled)}
    for size in ("12x2", "20x3"):
        own = ("plan", "wanted", "rule", "threshold", "score", "scored", "carried")
        expected |= {f"target.verify.{size}.{n}" for n in own}
    expected |= {f"target.verify.96x3x2.{n}" for n in (*own, "slots")}
    assert names == expected
    assert session.tensors["target.tree"].shape == (4, 3, 7)
