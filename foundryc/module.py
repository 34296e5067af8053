"""The tensors of a torch module, each once, and the recipes of those that files hold."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from foundryc import accepted
from foundryc.weights import StoredTensor, TensorFile, WeightSlice
from foundryc.weights.contents import StoredParts
from foundryc.weights.folders import model_folder, stored_tensors
from foundryrt.bundle.schema import DTYPES
from foundryrt.convert import AnyArray, storage_dtype
from foundryrt.errors import UsageError

WeightPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Member:
    """Memory of a module under its first name; `tensors` are all that share it (tied weights)."""

    name: str
    tensors: tuple[torch.Tensor, ...]
    role: str
    slices: tuple[WeightSlice, ...]


def members(module: torch.nn.Module, files: Iterable[WeightPath] | None) -> list[Member]:
    """The parameters and buffers of `module`, in the order in which they are to be registered.

    Parameters are weights, and so are buffers that the files hold; other buffers are state, since
    nothing says that the module only reads them. `files` are safetensors files, or folders of
    them; None means the folder that a model of transformers was loaded from, if it was.
    UsageError for a tensor that is no plain one, or a file that cannot be read.
    """
    stored = _model_tensors(module) if files is None else _given(files)
    parts = StoredParts(stored)
    parameters = {id(parameter) for parameter in module.parameters()}
    found = []
    for name, tensors in _shared(module):
        tensor = tensors[0]
        slices = _recipe(parts, name, tensor) if stored else []
        weight = bool(slices) or id(tensor) in parameters
        found.append(Member(name, tensors, "weight" if weight else "state", tuple(slices)))
    # What a bundle holds of a region is one run of bytes then.
    return sorted(found, key=lambda m: (bool(m.slices), m.role == "state" and _all_zero(m)))


def _all_zero(member: Member) -> bool:
    return not bool(member.tensors[0].detach().count_nonzero())


def _shared(module: torch.nn.Module) -> Iterator[tuple[str, tuple[torch.Tensor, ...]]]:
    """Names with the tensors that are one: the same object, or the same elements of memory."""
    places: dict[object, str] = {}
    shared: dict[str, dict[int, torch.Tensor]] = {}
    named = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in named:
        _check_plain(name, tensor)
        place: object = id(tensor)
        if tensor.numel():
            place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        shared.setdefault(places.setdefault(place, name), {})[id(tensor)] = tensor
    for name, tensors in shared.items():
        yield name, tuple(tensors.values())


def _check_plain(name: str, tensor: torch.Tensor) -> None:
    kind = type(accepted.tensor(name, tensor).data).__name__
    if kind != "Tensor":
        raise UsageError(f"{name}: is a {kind}; a module's tensors must be plain ones")


def _recipe(parts: StoredParts, name: str, tensor: torch.Tensor) -> Sequence[WeightSlice]:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if not tensor.dim() or not tensor.numel() or dtype not in DTYPES:
        return ()
    return parts.recipe(name, tuple(tensor.shape), dtype, _rows(tensor, dtype))


def _rows(tensor: torch.Tensor, dtype: str) -> AnyArray:
    """The elements as [rows, columns] of the numpy dtype that holds them."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().cpu()
    flat = plain.reshape(-1).view(torch.uint8).numpy()
    columns = tensor.shape[-1]
    return flat.view(storage_dtype(dtype)).reshape(prod(tensor.shape) // columns, columns)


def _given(files: Iterable[WeightPath]) -> list[StoredTensor]:
    found: list[StoredTensor] = []
    for path in map(Path, [files] if isinstance(files, (str, os.PathLike)) else files):
        tensors = stored_tensors(path) if path.is_dir() else TensorFile(path).tensors
        found += tensors.values()
    return found


def _model_tensors(module: torch.nn.Module) -> list[StoredTensor]:
    """Those of the folder that transformers loaded `module` from; empty where there is none."""
    name = getattr(module, "name_or_path", None)
    folder = model_folder(name) if isinstance(name, str) and name else None
    if folder is None or not any(folder.glob("*.safetensors")):
        return []
    return list(stored_tensors(folder).values())
