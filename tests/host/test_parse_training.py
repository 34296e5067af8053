"""Training of EAGLE-3 heads: the unrolled levels against drafting row by row, and the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from parse_models import save

from foundryrt.errors import UsageError
from parse_runtime.kernels.rotate import rotary
from parse_runtime.models.hf_config import config_from_hf, read_json
from parse_runtime.text.assets import assets_from_hf
from parse_runtime.training import examples, unroll
from parse_runtime.training.head import Head
from parse_runtime.weights.eagle3 import open_head

DEPTH = 3


def drafted(
    head: Head, frequencies: torch.Tensor, features: torch.Tensor, embedded: torch.Tensor,
    end: int, level: int,
) -> torch.Tensor:  # fmt: skip
    """Logits at row `end` of a draft that began at row `end - level`, row by row."""
    begin = end - level
    rows = [head.fc(features[:, i]) for i in range(begin + 1)]
    while True:
        n = len(rows)
        feature = torch.stack(rows, 1)
        rotation = rotary(torch.arange(n), frequencies, feature.dtype)
        q, k, v = head.midlayer.project(embedded[:, :n], feature, rotation)
        attended = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        output = head.midlayer.finish(feature, attended)
        if n == end + 1:
            return head.lm_head(head.norm(output[:, -1]))
        rows.append(output[:, -1])


def test_levels_are_those_of_drafting(tmp_path: Path) -> None:
    save(tmp_path, "llama")
    config = config_from_hf(read_json(tmp_path / "config.json"))
    torch.manual_seed(3)
    head = Head(config, range(10, 60)).double()
    frequencies = torch.tensor(config.inverse_frequencies(), dtype=torch.float64)
    features = torch.randn(2, 9, 3 * config.hidden, dtype=torch.float64)
    embedded = torch.randn(2, 9, config.hidden, dtype=torch.float64)
    with torch.no_grad():
        for level, found in enumerate(unroll.levels(head, frequencies, features, embedded, DEPTH)):
            for row in range(level, 9):
                expected = drafted(head, frequencies, features, embedded, row, level)
                torch.testing.assert_close(found[:, row], expected.float(), rtol=1e-4, atol=1e-5)


def test_the_command_trains_a_head_that_opens(tmp_path: Path) -> None:
    target = tmp_path / "target"
    save(target, "qwen3", num_hidden_layers=6)
    lines = [json.dumps({"prompt": f"count {i}", "answer": "one two three " * 3}) for i in range(6)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    command = [
        sys.executable, "-m", "parse_runtime.training.eagle3", "--target", str(target), "--data",
        str(tmp_path / "data.jsonl"), "--out", str(tmp_path / "head"), "--minutes", "0.03",
        "--rate", "1e-2", "--draft-vocab", "9",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["steps"] > 1
    config, _ = open_head(str(tmp_path / "head"), config_from_hf(read_json(target / "config.json")))
    assert config.vocab == 9


def test_lines_that_are_no_examples_are_named(tmp_path: Path) -> None:
    save(tmp_path, "llama")
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n{"prompt": "a"}\n')
    with pytest.raises(UsageError, match=r"data\.jsonl:2"):
        examples.read(path, assets_from_hf(tmp_path), 64)


def test_a_line_separator_inside_a_string_ends_no_line(tmp_path: Path) -> None:
    save(tmp_path, "llama")
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "a", "answer": "b\u2028c"}\n', encoding="utf-8")
    assert len(examples.read(path, assets_from_hf(tmp_path), 64)) == 1


def test_training_goes_on_only_from_a_head_of_the_same_sizes(tmp_path: Path) -> None:
    save(tmp_path, "llama")
    values = read_json(tmp_path / "config.json")
    config = config_from_hf(values)
    saved, again = Head(config, range(9)), Head(config, range(3, 12))
    saved.save(tmp_path / "head", values)
    again.restore(tmp_path / "head")
    assert torch.equal(again.tokens, saved.tokens)
    assert torch.equal(again.fc.weight, saved.fc.weight.bfloat16().float())
    with pytest.raises(UsageError, match="lm_head"):
        Head(config, range(10)).restore(tmp_path / "head")
    with pytest.raises(UsageError, match="nowhere"):
        saved.restore(tmp_path / "nowhere")


def test_every_example_comes_once_a_round() -> None:
    rows = [([i, i, i, i], 1) for i in range(1, 8)]
    batches = examples.batches(rows, 3, 0, torch.device("cpu"))
    seen = [int(row[0]) for _ in range(3) for row in next(batches)[0]]
    assert sorted(seen) == list(range(1, 8))
