"""A tiny model at the far end of a context of 32768 tokens, beside transformers."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from parse_models import GREEDY, eager, save

from parse_runtime.capture.settings import Settings
from parse_runtime.engine.batch import Batch, Chunk
from parse_runtime.signature.sizes import BLOCK

CONTEXT, FAR = 32768, 31700
"""Rows of a slot, and those that transformers computes."""
SHORT = 70
YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


def errors(folder: Path, device: str) -> dict[str, float]:
    """Of two slots, by what was computed, how far the worst logit is from transformers', over the
    largest one.

    One slot holds all but the last tokens of the context. The keys and values of its first FAR rows
    are those that transformers keeps; what follows is computed by prefill and decode passes.
    """
    import transformers

    model = save(
        folder, "qwen3", hidden_size=32, intermediate_size=32, num_hidden_layers=2, head_dim=16,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=CONTEXT,
        rope_parameters=YARN,
    ).to(device)  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 256, (CONTEXT,), generator=generator).tolist()
    short = tokens[:SHORT]
    with torch.inference_mode():
        given = torch.tensor([tokens], device=device)
        cache = transformers.DynamicCache()
        model(given[:, :FAR], past_key_values=cache)
        # Keys are scaled there, and scores here.
        scale = model.model.rotary_emb.attention_scaling
        kept = torch.stack([torch.cat((x.keys / scale, x.values)) for x in cache.layers])
        expected = model(given[:, FAR:], past_key_values=cache).logits[0].cpu()
        beginning = model(given[:, : SHORT + 2]).logits[0].cpu()
    settings = Settings(
        model=str(folder), max_len=CONTEXT, slots=2, prefill="32,512", verify="32x2",
        judge_prompt="ok?",
    )  # fmt: skip
    session, target, _, _ = eager(settings, (5, 9), device)
    # Blocks of the two slots lie among each other.
    for rows in (BLOCK, FAR // 2, FAR):
        for slot in (1, 0):
            assert target.tables.reserve(slot, rows if slot else min(rows, SHORT))
    table = torch.from_numpy(target.tables.values[1]).to(device).long()
    there = torch.arange(FAR, device=device)
    where = table[there // BLOCK], there % BLOCK
    session.tensors["target.cache"].movedim(3, 1)[where] = kept.permute(3, 0, 1, 2, 4)
    target.hold(1, tokens[:FAR])
    end = CONTEXT - 2
    chunks = [Chunk(0, short, 0, GREEDY, True), Chunk(1, tokens[FAR:end], FAR, GREEDY, True)]
    found = [torch.from_numpy(row) for row in target.prefill_all(chunks)]
    wanted = [beginning[SHORT - 1], expected[end - FAR - 1]]
    told = {"prefill": (found, wanted)}
    for step in range(2):
        batch = Batch(
            [0, 1], [tokens[SHORT + step], tokens[end + step]], [SHORT + step, end + step],
            [GREEDY] * 2,
        )  # fmt: skip
        scored = replace(batch, scored=frozenset({0, 1}))
        found = [torch.from_numpy(row) for row in target.extend(scored)]
        told[f"step {step}"] = found, [beginning[SHORT + step], expected[end - FAR + step]]
    return {
        name: max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*pair, strict=True))
        for name, pair in told.items()
    }
