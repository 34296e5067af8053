"""Model folders as they occur: several weight files, tied tables, the local hub cache, variants."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent))
from parse_models import VOCAB, eager, logits, save, save_head

from foundryrt.errors import UsageError
from parse_runtime.capture.record import Settings, _warn_of_no_end
from parse_runtime.models.hf_config import config_from_hf
from parse_runtime.weights import source
from parse_runtime.weights.eagle3 import open_head

TOKENS = np.random.default_rng(3).integers(0, VOCAB, 20).tolist()


def agrees(folder: Path) -> None:
    """With what transformers reads of the same folder."""
    oracle = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = oracle(torch.tensor([TOKENS])).logits[0, -1].numpy()
    settings = Settings(model=str(folder), max_len=64, prefill="32", verify="8x1")
    actual = logits(eager(settings)[1], TOKENS)
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("tables", ["unlike", "equal", "head alone"])
def test_a_tie_flag_with_an_output_table(tables: str, tmp_path: Path) -> None:
    save(tmp_path, "llama", tie_word_embeddings=True)
    path = tmp_path / "model.safetensors"
    values = safetensors.torch.load_file(path)
    values.setdefault("lm_head.weight", values["model.embed_tokens.weight"].clone())
    if tables == "unlike":
        values["lm_head.weight"] = values["lm_head.weight"].flip(0).contiguous()
    if tables == "head alone":
        values.pop("model.embed_tokens.weight")
    safetensors.torch.save_file(values, path, metadata={"format": "pt"})
    assert source.open_model(str(tmp_path)).config.tied_embeddings == (tables != "unlike")
    agrees(tmp_path)


ROPES: dict[str, dict[str, Any]] = {
    "theta": {"rope_theta": 5e5},
    "parameters": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    "scaling": {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "both": {
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
    },
    "both, theta beside": {
        "rope_theta": 3e5,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
    },
    "empty scaling": {
        "rope_scaling": {}, "rope_parameters": {"rope_type": "linear", "factor": 2.0},
    },
    "llama3": {
        "rope_theta": 5e5,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0},
    },
    "yarn": {
        "rope_theta": 5e5,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0,
                         "original_max_position_embeddings": 64},
    },
    "yarn, bounds as they are": {
        "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4,
                            "original_max_position_embeddings": 64, "beta_fast": 8.0,
                            "beta_slow": 2.0, "truncate": False, "mscale": 0.7,
                            "mscale_all_dim": 0.4},
    },
    "yarn, magnitude given": {
        "rope_scaling": {"type": "yarn", "factor": 2.0, "attention_factor": 1.3},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ROPES)
def test_rotary_frequencies_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    values = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4,
        "vocab_size": 100, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, **ROPES[name],
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
    found = config_from_hf(values)
    assert np.allclose(found.inverse_frequencies(), rotary.inv_freq.numpy(), rtol=1e-5)
    # The magnitude of queries and keys, as their score has it.
    scale = found.score_scale or found.head_dim**-0.5
    assert scale == pytest.approx(rotary.attention_scaling**2 * found.head_dim**-0.5)


LAYERS: dict[str, dict[str, Any]] = {
    "mistral": {}, "mistral, none": {"sliding_window": None}, "mixtral": {},
    "qwen2": {"sliding_window": 32}, "qwen2, on": {"use_sliding_window": True},
    "qwen3, on": {"use_sliding_window": True, "max_window_layers": 3}, "gemma2": {}, "gemma3": {},
    "gemma3, pattern": {"sliding_window_pattern": 3},
    "gemma3, types": {"layer_types": ["full_attention"] * 4 + ["sliding_attention"] * 4},
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_windows_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    kind = name.partition(",")[0]
    values = {
        "model_type": kind.replace("gemma3", "gemma3_text"), "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 8, "num_attention_heads": 32,
        "vocab_size": 100, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "head_dim": 16,
        **({"num_local_experts": 4, "num_experts_per_tok": 2} if kind == "mixtral" else {}),
        **LAYERS[name],
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(values))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    usual = ["sliding_attention" if theirs.sliding_window else "full_attention"] * 8
    types = getattr(theirs, "layer_types", None) or usual
    ours = config_from_hf(values)
    windowed = [i for i, kind in enumerate(types) if kind == "sliding_attention"]
    assert list(ours.windowed_layers) == windowed
    assert not windowed or ours.window == theirs.sliding_window
    assert ours.tied_embeddings == theirs.tie_word_embeddings
    assert ours.kv_heads == theirs.num_key_value_heads


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "llama")
    (tmp_path / "model.safetensors").rename(tmp_path / "a.safetensors")
    assert source.open_model(str(tmp_path)).config.layers == 3
    values = safetensors.torch.load_file(tmp_path / "a.safetensors")
    safetensors.torch.save_file(
        {"lm_head.weight": values["lm_head.weight"]}, tmp_path / "b.safetensors"
    )
    with pytest.raises(UsageError, match=r"'lm_head\.weight' is in a\.safetensors and in b\."):
        source.open_model(str(tmp_path))


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"]
)
def test_pointers_of_git_lfs_are_named(file: str, tmp_path: Path) -> None:
    save(tmp_path, "llama")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / file).write_text(pointer)
    with pytest.raises(UsageError, match=rf"{file}: a pointer of Git LFS.*git lfs pull"):
        source.open_model(str(tmp_path))


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"])
def test_a_model_of_the_local_hub_cache(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    inner = {"HF_HOME": "hub", "HF_HUB_CACHE": "", "XDG_CACHE_HOME": "huggingface/hub"}
    folder = tmp_path / inner[variable] / "models--org--tiny.model"
    snapshot = folder / "snapshots" / "0a1b2c"
    with pytest.raises(UsageError, match=r"org/name of a model in the Hugging Face cache \(.*hub"):
        source.locate("org/absent")
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0a1b2c\n")
    assert source.locate("org/tiny.model") == snapshot
    for revision in ("../../..", "0b", ""):
        (folder / "refs" / "main").write_text(revision)
        with pytest.raises(UsageError, match="no such model"):
            source.locate("org/tiny.model")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    target, head = tmp_path_factory.mktemp("target"), tmp_path_factory.mktemp("head")
    save(target, "llama")
    save_head(head, target)
    return target, head


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("eagle_aux_hidden_state_layer_ids", [0, 1, 2]), ("norm_before_residual", True),
        ("num_hidden_layers", 2), ("target_hidden_size", 64), ("attention_bias", True),
        ("eagle_config", {"use_aux_hidden_state": False}),
        ("eagle_config", {"eagle_aux_hidden_state_layer_ids": [0, 1, 2]}),
    ],
)  # fmt: skip
def test_fields_of_other_heads_are_refused(
    field: str, value: object, folders: tuple[Path, Path]
) -> None:
    target = source.open_model(str(folders[0])).config
    path = folders[1] / "config.json"
    before = path.read_text()
    path.write_text(json.dumps({**json.loads(before), field: value}))
    named = next(iter(value)) if isinstance(value, dict) else field
    try:
        with pytest.raises(UsageError, match=named):
            open_head(str(folders[1]), target)
    finally:
        path.write_text(before)


@pytest.mark.parametrize(
    "name",
    [
        "fc.bias",
        "midlayer.self_attn.q_proj.bias",
        "layers.1.mlp.up_proj.weight",
        "layers.0.norm.weight",
    ],
)
def test_tensors_of_other_heads_are_refused(name: str, folders: tuple[Path, Path]) -> None:
    target = source.open_model(str(folders[0])).config
    open_head(str(folders[1]), target)
    extra = folders[1] / "extra.safetensors"
    (folders[1] / "model.safetensors").rename(folders[1] / "head.safetensors")
    safetensors.torch.save_file({name: torch.ones(48)}, extra)
    try:
        with pytest.raises(UsageError, match=name.removeprefix("midlayer.")):
            open_head(str(folders[1]), target)
    finally:
        extra.unlink()
        (folders[1] / "head.safetensors").rename(folders[1] / "model.safetensors")


def test_a_model_without_an_end_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, "llama", eos_token_id=None)
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    model = source.open_model(str(tmp_path))
    _warn_of_no_end(Settings(model=str(tmp_path)), model, model)
    assert capsys.readouterr().err.count("no token ends an answer") == 1
