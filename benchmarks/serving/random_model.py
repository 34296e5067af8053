"""A pair of small random models and bundles of it, for a server on the CPU.

Their answers differ with every prompt and seed, so that a mixed-up one shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import torch
import transformers

from benchmarks.serving.text_files import write_text
from foundryc.recorder import Recorder
from parse_runtime.capture.record import Settings, record

VOCAB = 320
MAX_LEN = 160


def write_pair(folder: Path) -> None:
    """`target` and `draft`, as transformers reads them."""
    for name, layers in (("target", 2), ("draft", 1)):
        torch.manual_seed(layers)
        config = transformers.LlamaConfig(
            vocab_size=VOCAB, hidden_size=48, intermediate_size=80, num_hidden_layers=layers,
            num_attention_heads=6, num_key_value_heads=2, head_dim=8, initializer_range=0.2,
            max_position_embeddings=256, eos_token_id=VOCAB - 1, bos_token_id=None,
            pad_token_id=None,
        )  # fmt: skip
        transformers.LlamaForCausalLM(config).save_pretrained(folder / name)
        write_text(VOCAB, folder / name)


def capture_some(folder: Path, slots: int, names: Iterable[str]) -> dict[str, Path]:
    """Bundles of the pair by name: `one`, and those that a server of it may be switched to.

    `alike` has other passes over caches that are alike, `apart` caches of another size.
    """
    one = Settings(
        model=str(folder / "target"), draft=str(folder / "draft"), max_len=MAX_LEN, slots=slots,
        prefill="32,96", verify="48x2,120x3", judge_prompt="ok?", yes="y", no="n", stride=4,
        threshold=0.5,
    )  # fmt: skip
    bundles = {
        "one": one,
        "alike": replace(one, prefill="16,64", decode=f"1,{slots}"),
        "apart": replace(one, slots=slots - 1),
    }
    made = {name: folder / f"{name}.fdy" for name in names}
    for name, path in made.items():
        settings = asdict(bundles[name])
        with Recorder(target="host", workload="parse", settings=settings) as recorder:
            record(recorder, bundles[name])
            recorder.save(path)
    return made
