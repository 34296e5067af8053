"""Train an EAGLE-3 head: `python -m parse_runtime.training.eagle3 --target FOLDER --data FILE`.

The target is any causal model folder that `transformers` loads. Features are the hidden states
that enter layers 2, L // 2 and L - 3. The data should be answers of the target itself.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foundryrt.console import note, print_json
from foundryrt.errors import FoundryError
from parse_runtime.models.config import ModelConfig
from parse_runtime.models.eagle3 import tapped_layers
from parse_runtime.models.hf_config import config_from_hf, read_json
from parse_runtime.text.assets import assets_from_hf
from parse_runtime.training import examples, unroll
from parse_runtime.training.examples import Batches
from parse_runtime.training.head import Head
from parse_runtime.training.schedule import Clock, optimizer


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`vocabulary`: target ids that the head may draft, rising."""

    seconds: float
    vocabulary: Sequence[int] = field(repr=False)
    depth: int = 5
    """Levels of the unrolled drafting."""
    rate: float = 1e-3
    resume: Path | None = None
    """Folder of a head of the same sizes and vocabulary that is trained on."""


def train(
    target: Path, data: Batches, out: Path, settings: Settings, device: torch.device
) -> dict[str, Any]:
    """Train and save to `out`; steps, seconds, loss and hits of each level."""
    from transformers import AutoModelForCausalLM

    values = read_json(target / "config.json")
    config = config_from_hf(values, str(target / "config.json"))
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(target, dtype=dtype)
    model = model.to(device).eval()
    head = Head(config, settings.vocabulary).to(device)
    if settings.resume:
        head.restore(settings.resume)
    else:
        with torch.no_grad():
            head.lm_head.weight.copy_(model.get_output_embeddings().weight[head.tokens])
    frequencies = torch.tensor(config.inverse_frequencies(), device=device)
    adam = optimizer([head], settings.rate)
    clock = Clock(settings.seconds, adam, settings.rate)
    begin = time.perf_counter()
    while clock.running():
        tokens, answers = next(data)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss, hits = unroll.loss(
                head, frequencies, *_observed(model, config, head, tokens, answers), settings.depth
            )
        adam.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(head.parameters(), 0.5)
        adam.step()
        clock.step(loss)
    head.save(out, values)
    return {
        "steps": clock.steps,
        "seconds": time.perf_counter() - begin,
        "loss": loss.item(),
        "hits": hits.tolist(),
    }


@torch.no_grad()
def _observed(
    model: Any, config: ModelConfig, head: Head, tokens: Tensor, answers: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, embeddings, logits and weights of `unroll.loss` for tokens [B, T]."""
    seen = model(tokens, output_hidden_states=True, use_cache=False)
    taps = tapped_layers(config.layers)
    features = torch.cat([seen.hidden_states[layer] for layer in taps], -1)
    logits, rows = seen.logits[:, 1:-1], tokens.shape[1] - 2
    embedded = model.get_input_embeddings()(tokens[:, 1:-1])
    draftable = head.t2d[logits.argmax(-1)]
    weights = (answers[:, 2:] & draftable).float()
    return features[:, :rows], embedded, logits[..., head.tokens].float(), weights


def main() -> None:
    """The command line; the report on stdout as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, required=True, help="model folder")
    parser.add_argument("--data", type=Path, required=True, help="lines of prompt and answer")
    parser.add_argument("--out", type=Path, required=True, help="folder of the head")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024, help="most tokens of an example")
    parser.add_argument("--draft-vocab", type=int, default=32000)
    parser.add_argument("--depth", type=int, default=5, help="levels of unrolled drafting")
    parser.add_argument("--rate", type=float, default=1e-4, help="highest learning rate")
    parser.add_argument("--resume", type=Path, help="folder of a head that is trained on")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        rows = examples.read(a.data, assets_from_hf(a.target), a.length)
        settings = Settings(
            seconds=60 * a.minutes,
            vocabulary=examples.frequent(rows, a.draft_vocab),
            depth=a.depth,
            rate=a.rate,
            resume=a.resume,
        )
        batches = examples.batches(rows, a.batch, a.seed, device)
        print_json(train(a.target, batches, a.out, settings, device))
    except FoundryError as error:
        note(error)
        sys.exit(getattr(error, "exit_code", 1))


if __name__ == "__main__":
    main()
