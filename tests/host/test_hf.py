"""The workload hf: models of transformers over a static cache, equal to their own generation."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch

from foundryc import Recorder
from foundryc.cache.request import Request
from foundryrt import Session, UsageError
from foundryrt.bundle.reader import Bundle

pytest.importorskip("transformers", reason="pip install 'foundry-graphs[hf]'")
sys.path.insert(0, str(Path(__file__).parent))
import example_runs
import hf_models

from hf_runtime.capture import record
from hf_runtime.run import Options, run
from hf_runtime.settings import Settings

PROMPT = "Name three rivers."
LENGTH = 64
"""Tokens of the cache; the windows of the sliding layers are 8."""


def capture(folder: Path, **settings: Any) -> Path:
    path = folder / "model.fdy"
    chosen = Settings(str(folder), **{"max_len": LENGTH, "prefill": "4,16", **settings})
    with Recorder("host", workload="hf", settings=vars(chosen)) as recorder:
        record(recorder, chosen)
        recorder.save(path)
    return path


def expected(model: Any, folder: Path, text: str) -> tuple[str, int]:
    """The text and the number of tokens that transformers itself answers, until the cache is full
    or the answer ends."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompt = tokenizer.encode(text).ids
    given = torch.tensor([prompt])
    new = LENGTH + 1 - len(prompt)
    found = model.generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=new, do_sample=False
    )[0, len(prompt) :].tolist()
    return tokenizer.decode(found, skip_special_tokens=True), len(found)


OTHERS = [
    pytest.param(kind, marks=pytest.mark.exhaustive)
    for kind in hf_models.KINDS
    if kind not in ("gemma3", "mixtral", "gpt2")
]


@pytest.mark.parametrize("kind", ["gemma3", "mixtral", "gpt2", *OTHERS])
def test_answers_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    model = hf_models.save(tmp_path, kind)
    path = capture(tmp_path)
    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
        filled = {recipe.tensor for recipe in manifest.weights.recipes}
        # Those of experts are stacked, and tied ones are there once.
        assert {i for i, t in enumerate(manifest.tensors) if t.role == "weight"} == filled
    texts = set()
    with Session.open(path) as session:
        for prompt in (PROMPT, "x", PROMPT):
            options = Options(prompt=prompt, raw=True, max_new_tokens=LENGTH)
            answer = run(session, options, json=True)
            text, count = expected(model, tmp_path, prompt)
            assert (answer["text"], answer["tokens"]) == (text, count)
            assert (answer["finish"] == "stop") == (count < LENGTH + 1 - answer["prompt_tokens"])
            texts.add(text)
    assert len(texts) == 2 and max(len(set(text)) for text in texts) > 4


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The model, and its bundle in its folder."""
    folder = tmp_path_factory.mktemp("qwen3")
    return hf_models.save(folder, "qwen3"), capture(folder, prefill="4")


def test_a_prompt_as_the_model_s_chat_template_has_it(qwen: tuple[Any, Path]) -> None:
    model, path = qwen
    words = ["run", path, "--prompt", "Hi", "--max-new-tokens", LENGTH, "--json"]
    answer = json.loads(example_runs.run("foundryrt", *words))
    text, count = expected(model, path.parent, "<|user|>Hi<|end|><|assistant|>")
    assert (answer["text"], answer["tokens"]) == (text, count)


def test_sampling_and_what_ends_an_answer(
    qwen: tuple[Any, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(**options: Any) -> dict[str, Any]:
        chosen = Options(prompt=PROMPT, raw=True, **options)
        return run(session, chosen, json="stop" not in options)

    with Session.open(qwen[1]) as session:
        drawn = [answer(temperature=1.0, seed=seed, max_new_tokens=8) for seed in (1, 1, 2)]
        assert drawn[0]["text"] == drawn[1]["text"] != drawn[2]["text"]
        # A nucleus of one token is greedy.
        greedy = answer(max_new_tokens=8)
        assert answer(temperature=1.0, top_p=1e-9, max_new_tokens=8)["text"] == greedy["text"]
        middle = greedy["text"][3]
        stopped = answer(stop=middle)
        assert stopped["text"] == greedy["text"].partition(middle)[0]
        assert stopped["finish"] == "stop" and "ended by stop" in capsys.readouterr().out
        for prompt, message in (("", "no tokens"), ("x" * LENGTH, "leaves no room in the 64")):
            with pytest.raises(UsageError, match=message):
                run(session, Options(prompt=prompt, raw=True), json=True)


def test_the_key_counts_files_and_transformers(qwen: tuple[Any, Path]) -> None:
    request = Request.read("hf", "host", False, ["--model", str(qwen[1].parent), "--prefill="])
    assert request.settings.sizes() == [1]
    parts = request.parts()
    assert "input.model.config.json" in parts and "input.model.model.safetensors" in parts
    assert parts["version.transformers"] == importlib.metadata.version("transformers")


def test_models_that_it_cannot_capture(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such model; give a folder"):
        capture(tmp_path / "none")
    hf_models.save(tmp_path, "llama")
    with pytest.raises(UsageError, match="give --max-len 128 or less"):
        capture(tmp_path, max_len=200)
    sound = json.loads((tmp_path / "config.json").read_text())
    config = dict(sound)
    config["rope_parameters"] = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"rotary embedding \(dynamic\) changes"):
        capture(tmp_path)
    config["layer_types"] = ["linear_attention"] * 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="layers of type linear_attention"):
        capture(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert_of_mine"}')
    with pytest.raises(UsageError, match="transformers cannot load it"):
        capture(tmp_path)
    os.truncate(tmp_path / "model.safetensors", 300)
    (tmp_path / "config.json").write_text(json.dumps(sound))
    with pytest.raises(UsageError, match="transformers cannot load it"):
        capture(tmp_path)
    assert not (tmp_path / "model.fdy").exists()
