"""On a GPU, with torch: tiny models, their answers, and advances beside plain decoding, as JSON.

parse_eager.py FOLDER SETTINGS...: each SETTINGS is a JSON object of a capture's settings.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "host"))
from parse_models import answer, eager, quiet, save, save_head
from quantized_models import save_fp8

from parse_runtime.capture.record import Settings
from parse_runtime.engine.batch import Batch, Chunk, Sampling
from parse_runtime.engine.protocols import Verification
from parse_runtime.signature.evidence import LOG_ODDS

SIZES = {
    "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "head_dim": 64,
    "num_hidden_layers": 4, "max_position_embeddings": 512, "initializer_range": 0.06,
}  # fmt: skip
OPTIONS: list[dict[str, Any]] = [
    {"prompt": "Why?", "max_new_tokens": 60, "max_rounds": 0},
    {"prompt": "Why?", "max_new_tokens": 60, "max_rounds": 0, "temperature": 0.8, "seed": 3},
    {"prompt": "Why?", "max_new_tokens": 60, "threshold": 0.5, "stride": 4},
]
PROMPTS = {2: [5, 17, 200, 3], 0: [9] * 11, 3: [31, 77] * 20}
LENGTH = 120


def models(folder: Path) -> None:
    """target, a draft of one layer, a good head, mixtures of experts, and models with windows."""
    save(folder / "target", "qwen3", **SIZES)
    quiet(folder / "target", 0.01)
    save(folder / "draft", "llama", **{**SIZES, "num_hidden_layers": 1})
    save_head(folder / "head", folder / "target", good=True)
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    save(folder / "mixture", "qwen3_moe", **SIZES, **experts)
    save_fp8(folder / "fp8", "qwen3_moe")
    save_fp8(folder / "fp8_rows", "qwen3", hidden_size=512)
    layers = ["sliding_attention", "full_attention"] * 2
    save(folder / "gemma3", "gemma3", **SIZES, sliding_window=24, layer_types=layers)
    chosen = {"num_local_experts": 8, "num_experts_per_tok": 2}
    save(folder / "mixtral", "mixtral", **SIZES, **chosen, sliding_window=24)


def advances(settings: Settings, sampling: Sampling) -> dict[str, Any]:
    """Where advances and plain decoding first differ (-1: nowhere), and tokens a pass."""
    target = eager(settings, (5, 9), "cuda")[1]
    plain, fast = {}, {}
    for slot, prompt in PROMPTS.items():
        first = target.prefill(slot, prompt, 0, sampling)
        plain[slot], fast[slot] = [*prompt, first], [*prompt, first]
    while len(plain[3]) < LENGTH + len(PROMPTS[3]):
        slots = list(plain)
        ends = [len(plain[slot]) - 1 for slot in slots]
        last = [plain[slot][-1] for slot in slots]
        found = target.decode(Batch(slots, last, ends, [sampling] * 3))
        for slot, token in zip(slots, found, strict=True):
            plain[slot].append(token)
    passes = made = 0
    for slot, prompt in PROMPTS.items():
        target.prefill(slot, prompt, 0, sampling)
    while slots := [slot for slot in fast if len(fast[slot]) < len(plain[slot])]:
        ends = [len(fast[slot]) - 1 for slot in slots]
        last = [fast[slot][-1] for slot in slots]
        results = target.extend(Batch(slots, last, ends, [sampling] * len(slots)))
        passes += len(slots)
        for slot, tokens in zip(slots, results, strict=True):
            fast[slot] += tokens
            made += len(tokens)
    unlike = [
        i
        for slot in plain
        for i, (a, b) in enumerate(zip(plain[slot], fast[slot], strict=False))
        if a != b
    ]
    return {"unlike": min(unlike, default=-1), "tokens_per_pass": made / passes}


def following(settings: Settings, together: bool, device: str = "cuda") -> list[int]:
    """The token after each prompt, and the one after that, by passes of 64 rows."""
    target = eager(settings, (5, 9), device)[1]
    prompts = [
        Chunk(slot, tokens, 0, Sampling(0.8, 0.95, slot)) for slot, tokens in PROMPTS.items()
    ]
    given = [prompts] if together else [[prompt] for prompt in prompts]
    tokens = [int(token) for some in given for token in target.prefill_all(some)]
    ends = [len(prompt.tokens) for prompt in prompts]
    return tokens + target.decode(Batch(list(PROMPTS), tokens, ends, [Sampling()] * len(ends)))


def beside(settings: Settings, device: str = "cuda") -> dict[str, bool]:
    """Whether a step and a prompt have the same logits in one pass of 36 rows and in two."""
    chosen = replace(
        settings, prefill="64", mixed="4", speculate="", eagle="", fp8_activations=False
    )
    session, target, _, _ = eager(chosen, (5, 9), device)
    tokens = [target.prefill(slot, PROMPTS[slot], 0, Sampling()) for slot in (2, 0)]
    ends = [len(PROMPTS[slot]) for slot in (2, 0)]
    batch = Batch([2, 0], tokens, ends, [Sampling()] * 2)
    prompt = Chunk(3, PROMPTS[3][:32], 0, Sampling(), scored=True)
    target.decode(batch)
    steps = session.graph("target.decode", batch=4).read("logits")[:2]
    alone = target.begin_prefill([prompt])()
    together = target.begin_mixed([prompt], batch)()
    rows = session.graph("target.mixed", len=32, prompts=1, batch=4).read("logits")[:2]
    return {
        "steps": np.array_equal(steps, rows), "prompt": np.array_equal(alone, together)
    }  # fmt: skip


def judged(settings: Settings, device: str = "cuda") -> dict[str, Any]:
    """Verdicts and evidence of a draft in a pass of two drafts of 64 rows, by what is beside it and
    before it, and its verdicts in a pass of its own."""
    session, target, _, _ = eager(settings, (5, 9), device)
    said = session.tensors["draft.likelihood"]
    said.copy_(-torch.rand(said.shape, generator=torch.Generator().manual_seed(3)))
    wanted = {}
    for slot, prompt in PROMPTS.items():
        target.prefill(slot, prompt, 0, Sampling())
        base, draft = len(prompt), list(range(slot + 40, slot + 53))
        wanted[slot] = Verification(
            [prompt[-1], *draft], base - 1, [base + 6, base + 13], [61, 62, 63], score=LOG_ODDS,
            drafted=base,
        )  # fmt: skip
    own = target.verify(2, wanted[2])
    found = []
    for order in ((2,), (2, 0), (0, 2), (3, 2)):
        verdicts = target.verify_pass({slot: wanted[slot] for slot in order})
        one = verdicts[order.index(2)]
        assert one.evidence is not None
        found.append([one.verdicts, one.evidence.tolist()])
    return {"shared": found, "own": own.verdicts}


def main() -> None:
    folder = Path(sys.argv[1])
    if not (folder / "target").exists():
        models(folder)
    for text in sys.argv[2:]:
        settings = Settings(**json.loads(text))
        report = {
            "texts": [answer(settings, options, "cuda")["text"] for options in OPTIONS],
            "greedy": advances(settings, Sampling()),
            "sampled": advances(settings, Sampling(0.8, 0.95, 7)),
            "following": [following(settings, together) for together in (True, False)],
            "judged": judged(settings),
            "beside": beside(settings),
        }
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
