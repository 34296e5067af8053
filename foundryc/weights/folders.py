"""Folders of models as Hugging Face lays them out: where they are, and the tensors they hold."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from foundryc.weights.files import StoredTensor, TensorFile
from foundryrt.errors import UsageError


class _Index(msgspec.Struct):
    """A model.safetensors.index.json, as far as it is read."""

    weight_map: dict[str, str]


def hub_cache() -> Path:
    """The folder of huggingface_hub's cache, by the variables that it reads itself."""
    home = os.environ.get("HF_HOME") or str(
        Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    )
    return Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()


def model_folder(name: str) -> Path | None:
    """The folder `name`, or the snapshot in the hub cache that branch main of `org/name` is.

    None where there is neither; the network is never asked.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return None
    folder = hub_cache() / f"models--{name.replace('/', '--')}"
    try:
        revision = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    # A revision is a commit's digest; a path has no business there.
    snapshot = folder / "snapshots" / revision
    return snapshot if re.fullmatch(r"[0-9a-f]+", revision) and snapshot.is_dir() else None


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a model's folder; UsageError where there is none."""
    index = path / "model.safetensors.index.json"
    if index.exists():
        try:
            shards = msgspec.json.decode(index.read_bytes(), type=_Index).weight_map
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UsageError(f"{index}: cannot be read: {error}") from error
        files = sorted({path / file for file in shards.values()})
    else:
        # Some folders hold a second copy of the weights under another name.
        usual = path / "model.safetensors"
        files = [usual] if usual.exists() else sorted(path.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{path}: no *.safetensors file")
    return files


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of all safetensors files of a model's folder.

    UsageError where two files have a tensor of one name.
    """
    found: dict[str, StoredTensor] = {}
    for file in weight_files(path):
        tensors = TensorFile(file).tensors
        if twice := found.keys() & tensors.keys():
            name = min(twice)
            raise UsageError(
                f"{path}: tensor {name!r} is in {found[name].path.name} and in {file.name}; leave "
                "one copy of the weights, or an index (model.safetensors.index.json)"
            )
        found |= tensors
    return found
