"""A bundle of a model for several ranks: what is captured, and what its ranks give together."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from parse_command import capture
from parse_models import eager, save, save_head
from parse_ranks import on_bundle

from foundryc import report
from foundryc.difference import compare
from foundryc.page.bundle import bundle_page
from foundryc.recorder import Recorder
from foundryrt.bundle.reader import Bundle
from foundryrt.errors import UsageError
from parse_runtime.capture import fit
from parse_runtime.capture.record import Settings, record
from parse_runtime.engine.batch import Batch, Sampling
from parse_runtime.engine.protocols import Verification
from parse_runtime.graphs.loading import open_models
from parse_runtime.signature.evidence import LOG_ODDS
from parse_runtime.weights.source import open_model

TOKENS = np.random.default_rng(1).integers(0, 261, 30).tolist()
SAMPLING = Sampling(0.8, 0.9, 7)
MIXTURE = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}


def tiny(folder: Path, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "model": str(folder), "tp": 2, "max_len": 64, "slots": 2, "prefill": "16", "decode": "2",
        "verify": "48x4", "evidence": "16", "judge_prompt": "ok?", "yes": "y", "no": "n",
    }  # fmt: skip
    return Settings(**{**values, **changes})


def model(folder: Path, kind: str = "llama", **changes: Any) -> Path:
    save(folder, kind, num_attention_heads=8, num_key_value_heads=2, **changes)
    return folder


def answered(session: Any) -> dict[str, np.ndarray]:
    """Of a few passes, tokens and logits."""
    target, draft = open_models(session)
    sequence = TOKENS[:12]
    sequence.append(target.prefill(1, sequence, 0, SAMPLING))
    for _ in range(3):
        tokens = target.extend(Batch([1], sequence[-1:], [len(sequence) - 1], [SAMPLING]))[0]
        sequence += tokens
    draft.prefill(0, TOKENS[:9], 0, SAMPLING)
    proposed = draft.decode(Batch([0, 1], [5, 6], [9, 0], [SAMPLING] * 2))
    target.verify(1, Verification(TOKENS[12:28], 12, [16, 28], [7, 8], score=LOG_ODDS, drafted=13))
    judged = session.graph("target.verify", len=48, cuts=4)
    return {
        "tokens": np.asarray(sequence),
        "proposed": np.asarray(proposed),
        "verdicts": judged.read("verdicts"),
        "logits": judged.read("logits"),
    }


WAYS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama, tied": ("llama", {"tie_word_embeddings": True, "vocab_size": 265}, {}),
    "mixtral": ("mixtral", MIXTURE, {}),
    "gemma2": ("gemma2", {"sliding_window": 6, "query_pre_attn_scalar": 24}, {}),
    "a head": ("qwen3", {}, {"eagle": "head", "eagle_depth": 2, "eagle_width": 2}),
    "a draft model": ("qwen3", {}, {"draft": "draft", "speculate": "draft", "eagle_depth": 2}),
    "four": ("qwen2", {}, {"tp": 4}),
}


@pytest.mark.parametrize("way", WAYS)
def test_ranks_of_a_bundle_give_what_the_model_gives_alone(way: str, tmp_path: Path) -> None:
    kind, sizes, changes = WAYS[way]
    folder = model(tmp_path / "target", kind, **sizes)
    save_head(tmp_path / "head", folder)
    save(tmp_path / "draft", "llama", num_hidden_layers=1)
    (tmp_path / "draft" / "model.safetensors").rename(tmp_path / "draft" / "draft.safetensors")
    given = {k: str(tmp_path / v) if k in ("eagle", "draft") else v for k, v in changes.items()}
    settings = tiny(folder, **given)
    path = tmp_path / "ranks.fdy"
    capture(settings, path)
    word = open_model(str(folder)).text.tokenizer.single
    expected = answered(eager(replace(settings, tp=1), (word("y"), word("n")))[0])
    found = on_bundle(path, settings.tp, answered)
    for own in found:
        for name in ("tokens", "proposed"):
            np.testing.assert_array_equal(own[name], expected[name])
        for name in ("verdicts", "logits"):
            np.testing.assert_allclose(own[name], expected[name], rtol=1e-3, atol=1e-4)
            np.testing.assert_array_equal(own[name], found[0][name])


def test_a_bundle_has_no_rank_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured as the first or the last rank, with other weights in memory, it is the same file."""
    folder = model(tmp_path / "model", "mixtral", **MIXTURE)
    files = []
    for rank in (0, 3):
        monkeypatch.setenv("FOUNDRY_RANK", str(rank))
        capture(tiny(folder, tp=4), tmp_path / "ranks.fdy")
        files.append((tmp_path / "ranks.fdy").read_bytes())
    assert files[0] == files[1]


def test_a_rank_has_its_share_of_memory_and_files(tmp_path: Path) -> None:
    folder = model(tmp_path / "model", num_hidden_layers=1)
    capture(tiny(folder, tp=1), tmp_path / "alone.fdy")
    capture(tiny(folder, tp=8), tmp_path / "ranks.fdy")
    with Bundle.open(tmp_path / "alone.fdy") as alone, Bundle.open(tmp_path / "ranks.fdy") as eight:
        assert not alone.manifest.ranks and eight.manifest.ranks.world == 8
        one, own = ({t.name: t.shape for t in b.manifest.tensors} for b in (alone, eight))
        assert own["target.cache"][4] == 1 and one["target.cache"][4] == 2
        hidden = 48
        assert own["target.embed"] == own["target.head"] == (34, hidden)
        assert own["target.layers.0.qkv"] == (3 * 8, hidden)
        assert own["target.layers.0.o"] == (hidden, 8)
        assert own["target.layers.0.gate_up"] == (20, hidden)
        assert own["target.layers.0.input_norm"] == one["target.layers.0.input_norm"]
        tensors, weights = eight.manifest.tensors, eight.manifest.weights
        recipes = Counter(tensors[recipe.tensor].name for recipe in weights.recipes)
        assert recipes["target.layers.0.qkv"] == 8 and recipes["target.layers.0.input_norm"] == 1
        assert all(recipe.rank == -1 for recipe in alone.manifest.weights.recipes)


def test_a_bundle_says_for_how_many_ranks_it_is(tmp_path: Path, capsys) -> None:
    folder = model(tmp_path / "model", num_hidden_layers=1)
    for tp in (1, 2, 4):
        capture(tiny(folder, tp=tp), tmp_path / f"{tp}.fdy")
    with Bundle.open(tmp_path / "1.fdy") as one, Bundle.open(tmp_path / "4.fdy") as four:
        assert (report.summary(one)["ranks"], report.summary(four)["ranks"]) == (1, 4)
        report.print_bundle(four)
        assert "4, each a process of its own" in capsys.readouterr().out
        assert "<svg" in bundle_page([four])
        with Bundle.open(tmp_path / "2.fdy") as two:
            found = {d["name"]: (d["a"], d["b"]) for d in compare(two, four)}
        assert found["ranks"] == ("2", "4") and found["tp"] == ("2", "4")
        assert "model.safetensors:lm_head.weight[0:68]" in found
        assert {d["name"] for d in compare(one, four) if d["what"] == "bundle"} >= {"ranks"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tp": 3}, r"tp 3: 8 heads do not divide among 3 ranks; possible: 1, 2, 4, 8$"),
        ({"tp": 65}, "tp 65: from 1 to 64"),
        ({"tp": 0}, "tp: at least 1"),
    ],
)
def test_numbers_of_ranks_that_cannot_be(
    change: dict[str, int], named: str, tmp_path: Path
) -> None:
    folder = model(tmp_path / "model", num_hidden_layers=1)
    with pytest.raises(UsageError, match=named):
        capture(tiny(folder, **change), tmp_path / "ranks.fdy")


def test_weights_of_ranks_are_not_embedded(tmp_path: Path) -> None:
    """They would be those of one."""
    settings = tiny(model(tmp_path / "model", num_hidden_layers=1))
    with Recorder("host", "parse", asdict(settings)) as recorder:
        record(recorder, settings)
        with pytest.raises(UsageError, match=r"x\.fdy: ranks have weights of their own"):
            recorder.save(tmp_path / "x.fdy", embed_weights=True)
    assert not (tmp_path / "x.fdy").exists()


def test_sizes_for_a_machine_are_those_of_a_rank(tmp_path: Path, monkeypatch) -> None:
    """Half the weights leave room for more sequences."""
    folder = model(tmp_path / "model", hidden_size=256, intermediate_size=1024)
    monkeypatch.setattr(fit, "memory", lambda target: 21 << 20)
    given = {"model": str(folder), "max_len": 256}
    alone, shared = (fit.fitted({**given, "tp": tp}, "host") for tp in (1, 2))
    assert shared["slots"] > alone["slots"]
    with pytest.raises(UsageError, match="tp 5: 8 heads"):
        fit.fitted({**given, "tp": 5}, "host")


@pytest.mark.parametrize("option", ["--embed-weights", "--compile"])
def test_what_ranks_cannot_have_is_refused_before_the_capture(option: str, tmp_path: Path) -> None:
    folder = model(tmp_path / "model", num_hidden_layers=1)
    arguments = ["capture", "--model", str(folder), "--tp", "2", "--target", "host", option]
    command = [sys.executable, "-c", "from foundryc.cli import main; main()", *arguments]
    done = subprocess.run([*command, "-o", str(tmp_path / "x.fdy")], capture_output=True, text=True)
    assert done.returncode == 2 and f"{option}: with --tp" in done.stderr
    assert not (tmp_path / "x.fdy").exists()
