"""Models of transformers, run in a process without torch: answers equal to their own generation.

The oracle generates on the CPU: in float32 a tiny random model has no ties that rounding decides.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from processes import CAPTURE, RUN, finish, start

pytest.importorskip("transformers", reason="pip install 'foundry-graphs[hf]'")
sys.path.insert(0, str(Path(__file__).parents[1] / "host"))
import hf_models
import tokenizers

PROMPT = "Name three rivers."
PROVED = next(iter(hf_models.KINDS))


@pytest.mark.parametrize("kind", list(hf_models.KINDS))
def test_answers_are_those_of_transformers(tmp_path, kind):
    model = hf_models.save(tmp_path, kind)
    path = tmp_path / "model.fdy"
    words = ["--workload", "hf", "--model", tmp_path, "--max-len", 64, "--prefill", "4,16"]
    # One of them with captures compared and its proof, which take three times as long.
    words += ["--target", "cuda", *["--no-relocate"] * (kind != PROVED)]
    finish(start("-c", CAPTURE, "capture", *words, "-o", path))
    words = ["--prompt", PROMPT, "--raw", "--json"]
    answer = json.loads(finish(start("-c", RUN, "run", path, *words)))
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    given = torch.tensor([tokenizer.encode(PROMPT).ids])
    new = 65 - given.shape[1]
    mask = torch.ones_like(given)
    found = model.generate(given, attention_mask=mask, max_new_tokens=new, do_sample=False)
    tokens = found[0, given.shape[1] :].tolist()
    assert answer["tokens"] == len(tokens)
    assert answer["text"] == tokenizer.decode(tokens, skip_special_tokens=True)
