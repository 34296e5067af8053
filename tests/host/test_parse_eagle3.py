"""The EAGLE-3 head against an implementation of its own, in plain torch over whole sequences."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from parse_models import GREEDY, VOCAB, eager, save, save_head

from foundryrt.errors import UsageError
from parse_runtime.capture.settings import Settings
from parse_runtime.engine.batch import Batch
from parse_runtime.models.eagle3 import tapped_layers
from parse_runtime.weights.eagle3 import open_head
from parse_runtime.weights.source import open_model

PROMPT = [5, 17, 200, 3, 90, 41, 11, 12, 13, 14, 15]


class Oracle:
    """Drafts for a whole sequence at a time; no cache, no batches."""

    def __init__(self, folder: Path, target: torch.nn.Module) -> None:
        self.w = safetensors.torch.load_file(folder / "model.safetensors")
        self.c = json.loads((folder / "config.json").read_text())
        self.target = target

    def features(self, tokens: list[int]) -> Tensor:
        with torch.no_grad():
            out = self.target(torch.tensor([tokens]), output_hidden_states=True)
        layers = len(out.hidden_states) - 1
        taken = [out.hidden_states[i][0] for i in (2, layers // 2, layers - 3)]
        return torch.cat(taken, -1) @ self.w["fc.weight"].T

    def norm(self, x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.w[name], self.c["rms_norm_eps"])

    def layer(self, feature: Tensor, tokens: list[int]) -> Tensor:
        """[n, h]: row i of features beside the embedding of token i + 1."""
        n, size = len(tokens), self.c["head_dim"]
        embedding = self.target.get_input_embeddings().weight[torch.tensor(tokens)].detach()
        e = self.norm(embedding, "midlayer.input_layernorm.weight")
        x = torch.cat((e, self.norm(feature, "midlayer.hidden_norm.weight")), -1)
        q, k, v = (
            (x @ self.w[f"midlayer.self_attn.{name}_proj.weight"].T).view(n, -1, size)
            for name in "qkv"
        )
        q, k = self.rotate(q), self.rotate(k)
        scores = torch.einsum("qhd,khd->hqk", q, k) / size**0.5
        scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf)
        x = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1)
        hidden = feature + x @ self.w["midlayer.self_attn.o_proj.weight"].T
        x = self.norm(hidden, "midlayer.post_attention_layernorm.weight")
        gate, up, down = (self.w[f"midlayer.mlp.{n}_proj.weight"] for n in ("gate", "up", "down"))
        return hidden + (F.silu(x @ gate.T) * (x @ up.T)) @ down.T

    def rotate(self, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        frequencies = 10000.0 ** (-torch.arange(half) / half)
        angles = torch.arange(x.shape[0])[:, None, None] * frequencies
        pairs = torch.complex(x[..., :half], x[..., half:])
        turned = pairs * torch.polar(torch.ones_like(angles), angles)
        return torch.cat((turned.real, turned.imag), -1)

    def after(self, tokens: list[int], drafted: list[int]) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the token after `tokens` and `drafted`, by the draft vocabulary."""
        feature, following = self.features(tokens[:-1]), tokens[1:]
        output = self.layer(feature, following)
        for token in drafted:
            # The feature of a drafted row is the head's output at the row before it.
            feature = torch.cat((feature, output[-1:]))
            following = [*following, token]
            output = self.layer(feature, following)
        scores = self.norm(output[-1], "norm.weight") @ self.w["lm_head.weight"].T
        ids = torch.arange(len(scores)) + self.w["d2t"]
        return scores.log_softmax(-1), ids

    def tree(self, tokens: list[int], depth: int, width: int) -> list[tuple[int, ...]]:
        """Paths of the kept nodes, level by level."""
        level: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        kept: list[tuple[int, ...]] = []
        for _ in range(depth):
            candidates = []
            for total, path in level:
                scores, ids = self.after(tokens, list(path))
                best = scores.topk(width)
                candidates += [
                    (total + s, (*path, int(ids[i])))
                    for s, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
                ]
            level = sorted(candidates, reverse=True)[:width]
            kept += [path for _, path in level]
        return kept


@pytest.mark.parametrize(("depth", "width", "drafts"), [(4, 1, VOCAB), (3, 3, 150), (5, 2, 40)])
def test_drafts_are_those_of_the_oracle(
    depth: int, width: int, drafts: int, tmp_path: Path
) -> None:
    oracle_target = save(tmp_path, "qwen3", num_hidden_layers=6)
    save_head(tmp_path / "head", tmp_path, drafts=drafts)
    s = Settings(
        model=str(tmp_path), eagle=str(tmp_path / "head"), eagle_depth=depth, eagle_width=width,
        max_len=64, slots=2, prefill="4", verify="8x1",
    )  # fmt: skip
    session, target, _, _ = eager(s)
    oracle = Oracle(tmp_path / "head", oracle_target)
    sequence = [*PROMPT, target.prefill(1, PROMPT, 0, GREEDY)]
    for _ in range(4):
        found = target.extend(Batch([1], sequence[-1:], [len(sequence) - 1], [GREEDY]))
        sequence += found[0]
        tokens, parents, ancestors = session.tensors["target.tree"][1].tolist()
        paths: list[tuple[int, ...]] = [()]
        for row in range(1, len(tokens)):
            paths.append((*paths[parents[row]], tokens[row]))
            assert ancestors[row] == ancestors[parents[row]] | 1 << row
        assert paths[1:] == oracle.tree(sequence, depth, width)


def test_layers_of_features() -> None:
    assert tapped_layers(32) == (2, 16, 29)
    assert tapped_layers(1) == (0, 0, 0)


def renamed(values: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {name.replace(old, new): value for name, value in values.items()}


@pytest.mark.parametrize("new", ["layers.0.", "model.layers.0.", "model.midlayer."])
def test_names_of_other_exports_are_read(new: str, tmp_path: Path) -> None:
    save(tmp_path, "llama")
    save_head(tmp_path / "head", tmp_path)
    path = tmp_path / "head" / "model.safetensors"
    values = renamed(safetensors.torch.load_file(path), "midlayer.", new)
    safetensors.torch.save_file(values, path)
    config, recipes = open_head(str(tmp_path / "head"), open_model(str(tmp_path)).config)
    assert config.vocab == VOCAB and len(recipes) == 11


def changed(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def damage(head: Path, kind: str) -> None:
    path = head / "model.safetensors"
    if kind == "pickle":
        path.rename(head / "pytorch_model.bin")
    elif kind == "architecture":
        changed(head, architectures=["LlamaForCausalLM"])
    elif kind == "hidden":
        changed(head, hidden_size=64)
    else:
        values = safetensors.torch.load_file(path)
        if kind == "beyond":
            values["d2t"][-1] = VOCAB - 49
        elif kind == "below":
            values["d2t"][3] = -4
        else:
            del values[kind]
        safetensors.torch.save_file(values, path)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("pickle", "pickles"),
        ("architecture", "LlamaForCausalLMEagle3"),
        ("hidden", "hidden_size 64"),
        ("fc.weight", "no tensor 'fc.weight'"),
        ("d2t", "d2t is missing"),
        ("beyond", f"d2t maps draft token 49 to {VOCAB}, .* has {VOCAB} tokens"),
        ("below", "d2t maps draft token 3 to -1"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(kind: str, named: str, tmp_path: Path) -> None:
    save(tmp_path, "llama")
    save_head(tmp_path / "head", tmp_path, drafts=50)
    damage(tmp_path / "head", kind)
    with pytest.raises(UsageError, match=named):
        open_head(str(tmp_path / "head"), open_model(str(tmp_path)).config)
