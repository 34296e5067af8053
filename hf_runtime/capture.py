"""`foundryc capture --workload hf`: the forward passes of a model of transformers as graphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from foundryc.weights.folders import hub_cache, model_folder, weight_files
from foundryrt.console import note
from foundryrt.errors import UsageError
from hf_runtime import signature
from hf_runtime.settings import Settings
from parse_runtime.text.assets import TextAssets, assets_from_hf

if TYPE_CHECKING:
    from torch import Tensor

    from foundryc.recorder import Recorder
    from hf_runtime.model import CachedModel

__all__ = ["BY_NAME", "LIBRARIES", "PACKAGES", "Settings", "inputs", "record"]

BY_NAME = True
"""Its options are those of others: it is asked for by `--workload hf`."""
LIBRARIES = ("transformers",)
PACKAGES = ("parse_runtime",)
_TEXT = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja",
)  # fmt: skip


def inputs(settings: Settings) -> dict[str, list[Path]]:
    """The files that determine the bundle; UsageError where the model is missing."""
    folder = _folder(settings.model)
    texts = [folder / name for name in _TEXT if (folder / name).exists()]
    return {"model": texts + weight_files(folder)}


def record(recorder: Recorder, settings: Settings) -> None:
    """Register weights and cache, and record a pass of each size, each once."""
    # Imported late: a capture's options and its key need neither torch nor transformers.
    import torch

    from hf_runtime.model import CachedModel, load

    folder = _folder(settings.model)
    text = assets_from_hf(folder)
    model = load(folder, settings.dtype)
    _check_ids(text, model.get_input_embeddings().num_embeddings, folder)
    recorder.attach(signature.TOKENIZER, text.tokenizer.to_json().encode())
    chat = json.dumps(text.chat.to_dict(), indent=1, sort_keys=True)
    recorder.attach(signature.CHAT, chat.encode())
    with torch.no_grad():
        recorder.module(model)
        _record(recorder, CachedModel(model, settings.max_len), settings.sizes())


def _record(recorder: Recorder, model: CachedModel, sizes: list[int]) -> None:
    import torch

    from hf_runtime.model import zeros

    tokens = {
        count: recorder.register(signature.tokens(count), zeros(count), role="input")
        for count in sizes
    }

    def forward(count: int) -> Tensor:
        # One product for all tokens of an expert reads its weights once, but is a kernel in
        # bfloat16 alone: in other types it reads sizes on the host, and on the CPU it is no ATen
        # call. One of its own for each token reads them as often.
        on_gpu = recorder.target == "cuda" and model.model.dtype == torch.bfloat16
        grouped = on_gpu and count > 1
        model.experts("grouped_mm" if grouped else "batched_mm")
        return model.forward(tokens[count])

    with recorder.warm_up():
        forward(1)  # makes the cache
    for name, (layer, attribute) in model.tensors().items():
        made = getattr(layer, attribute)
        setattr(layer, attribute, recorder.register(name, made.zero_(), role="state"))
    if recorder.target == "cuda":
        with recorder.warm_up():
            for count in sizes:
                model.reset()
                forward(count)
    with recorder.graph(signature.RESET):
        model.reset()
    for count in sizes:
        model.reset()
        with recorder.graph(signature.FORWARD, tokens=count) as graph:
            logits = forward(count)
            graph.output(signature.LOGITS, logits)
            graph.output(signature.TOKEN, logits.argmax())


def _folder(name: str) -> Path:
    folder = model_folder(name)
    if folder is None:
        raise UsageError(
            f"{name}: no such model; give a folder with config.json and *.safetensors, or org/name"
            f" of a model in the Hugging Face cache ({hub_cache()}; hf download puts it there)"
        )
    return folder


def _check_ids(text: TextAssets, vocabulary: int, folder: Path) -> None:
    """UsageError where a pass would read beyond the embedding table."""
    if text.tokenizer.size > vocabulary:
        raise UsageError(
            f"{folder}: tokenizer.json has ids up to {text.tokenizer.size - 1}, the model's table"
            f" {vocabulary} rows; take the tokenizer that the model was trained with"
        )
    if not text.chat.stops:
        note(
            f"warning: {folder}: no token ends an answer (no eos_token is known), so answers go on"
            " to --max-new-tokens"
        )
