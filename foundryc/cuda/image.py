"""A recording as a bundle's sections and manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from foundryc.cuda.compile import compile_cubin
from foundryc.cuda.extract import CapturedFunction, Columns
from foundryc.cuda.recording import CudaRecording, NamedTensor
from foundryc.cuda.smaller import smaller
from foundryc.cuda.variables import values_to_keep
from foundryc.weights import build_weights
from foundryrt.bundle.schema import (
    FORMAT_VERSION,
    REGIONS,
    Function,
    GraphEntry,
    Kernel,
    Manifest,
    Region,
    Requirements,
    SectionKind,
    Template,
    Tensor,
    Variable,
    Weights,
    Workload,
)
from foundryrt.bundle.tables import MEMBER_COLUMNS, NO_FUNCTION, TEMPLATE_COLUMNS, pack
from foundryrt.bundle.writer import BundleWriter
from foundryrt.errors import FoundryError

_DIGEST = Path(__file__).with_name("digest.cu")
_TOPOLOGY = [name for name in TEMPLATE_COLUMNS if name != "parameters"]


class _Functions:
    """Functions and kernel binaries by content, in order of first use."""

    def __init__(self, recording: CudaRecording) -> None:
        self._recording = recording
        self._values: dict[int, dict[str, bytes]] = {}
        self._names: dict[bytes, set[str]] = {}
        self._index: dict[Function, int] = {}
        self.variables: dict[tuple[int, str], bytes] = {}

    def index(self, captured: CapturedFunction) -> int:
        cubin = self._recording.harvest.binary_of(captured.name, captured.module)
        if captured.module not in self._values:
            self._values[captured.module] = values_to_keep(captured, cubin)
        self._names.setdefault(cubin, set()).add(captured.name)
        kernel = list(self._names).index(cubin)
        for name, data in self._values[captured.module].items():
            if self.variables.setdefault((kernel, name), data) != data:
                raise FoundryError(
                    f"two modules of one binary hold different values in their variable {name};"
                    " a bundle loads a binary once"
                )
        function = Function(
            name=captured.name,
            kernel=kernel,
            max_dynamic_shared=captured.max_dynamic_shared,
            shared_carveout=captured.carveout,
            cluster_nonportable=captured.nonportable,
        )
        return self._index.setdefault(function, len(self._index))

    def write(self, writer: BundleWriter) -> tuple[Kernel, ...]:
        """Store the binaries with the kernels that were asked for, once all are known."""
        kernels: list[Kernel] = []
        for binary, names in self._names.items():
            data = smaller(binary, names)
            if hashlib.sha256(data).digest() in {kernel.sha256 for kernel in kernels}:
                data = binary  # cut down alike, but two binaries: each has its own variables
            digest = hashlib.sha256(data).digest()
            section = writer.add(SectionKind.KERNEL, digest.hex()[:32], data, compress=False)
            kernels.append(Kernel(sha256=digest, section=section))
        return tuple(kernels)

    @property
    def functions(self) -> tuple[Function, ...]:
        return tuple(self._index)


class _Templates:
    """Templates by topology; a member is the words in which it differs from the first."""

    def __init__(self, writer: BundleWriter) -> None:
        self._writer = writer
        self._known: dict[bytes, tuple[int, npt.NDArray[np.uint64]]] = {}
        self.templates: list[Template] = []

    def member(self, columns: Columns) -> tuple[int, dict[str, npt.NDArray[np.unsignedinteger]]]:
        key = hashlib.sha256()
        for name in _TOPOLOGY:
            data = np.ascontiguousarray(columns[name]).tobytes()
            key.update(len(data).to_bytes(8, "little") + data)
        if key.digest() not in self._known:
            table, data = pack(columns, TEMPLATE_COLUMNS)
            index = len(self.templates)
            section = self._writer.add(SectionKind.TEMPLATE, f"template {index}", data)
            self.templates.append(
                Template(
                    section=section,
                    nodes=len(columns["kind"]),
                    edges=len(columns["edge_from"]),
                    columns=table,
                )
            )
            self._known[key.digest()] = (index, columns["parameters"])
        index, words = self._known[key.digest()]
        word = np.flatnonzero(words != columns["parameters"])
        return index, {"word": word, "value": columns["parameters"][word]}


def _tensor(recording: CudaRecording, named: NamedTensor) -> Tensor:
    place = recording.arena.locate(named.tensor)
    if place is None:
        raise FoundryError(f"tensor {named.name!r} is not in the arena")
    return Tensor(
        name=named.name,
        region=place[0],
        offset=place[1],
        dtype=str(named.tensor.dtype).removeprefix("torch."),
        shape=tuple(named.tensor.shape),
        strides=tuple(named.tensor.stride()),
        role=named.role,
        graph=named.graph,
    )


def _initial_bytes(recording: CudaRecording, region: str, embed: bool) -> npt.NDArray[np.uint8]:
    """The initial bytes of a region; what follows them is zero."""
    arena = recording.arena
    base, size = arena.region_base(region), arena.used(region)
    if region == "weights":
        return arena.bytes_at(base, size if embed else 0).cpu().numpy()
    saved = {a - base: d for a, d in recording.initial.items() if base <= a < base + size}
    image = np.zeros(max((at + data.size for at, data in saved.items()), default=0), np.uint8)
    for at, data in saved.items():
        image[at : at + data.size] = data
    return image


def save(
    recording: CudaRecording,
    path: Path,
    workload: str,
    settings: Mapping[str, bool | int | float | str | None],
    files: Mapping[str, bytes] | None = None,
    embed_weights: bool = False,
) -> None:
    """Write the recording as a bundle with `files` attached.

    Weights are embedded when asked, and where any of them was registered without its pieces.
    """
    torch.cuda.synchronize()
    arena = recording.arena
    named = recording.tensors + [o for graph in recording.graphs for o in graph.outputs]
    weights = [(i, t.pieces) for i, t in enumerate(named) if t.role == "weight"]
    embed = embed_weights or not all(pieces for _, pieces in weights)
    with BundleWriter(path) as writer:
        functions, templates = _Functions(recording), _Templates(writer)
        graphs: list[GraphEntry] = []
        for recorded in recording.graphs:
            if recorded.captured is None:
                raise FoundryError(f"graph {recorded.name} was not captured")
            local = [functions.index(f) for f in recorded.captured.functions]
            lookup = np.array([*local, NO_FUNCTION], np.uint32)
            old = recorded.captured.columns["function"]
            columns = dict(recorded.captured.columns)
            columns["function"] = lookup[np.minimum(old, len(local))]
            template, words = templates.member(columns)
            table, data = pack(words, MEMBER_COLUMNS)
            section = writer.add(SectionKind.MEMBER, f"graph {len(graphs)}", data)
            graphs.append(
                GraphEntry(
                    name=recorded.name, key=recorded.key, template=template, section=section,
                    columns=table,
                )
            )  # fmt: skip
        kernels = functions.write(writer)
        major, minor = torch.cuda.get_device_capability(arena.device)
        recipes = Weights() if embed else build_weights(weights)
        if recipes.sources:
            data = compile_cubin(_DIGEST, f"sm_{major}{minor}")
            section = writer.add(SectionKind.KERNEL, "digest of weights", data, compress=False)
            recipes = msgspec.structs.replace(recipes, digest_kernel=len(kernels))
            kernels += (Kernel(sha256=hashlib.sha256(data).digest(), section=section),)
        regions = []
        for name in REGIONS:
            image = _initial_bytes(recording, name, embed)
            section = (
                writer.add(SectionKind.REGION, name, image.data, compress=name != "weights")
                if image.size
                else -1
            )
            regions.append(
                Region(
                    name=name, base=arena.region_base(name), size=arena.used(name), section=section
                )
            )
        for name, content in (files or {}).items():
            writer.add(SectionKind.FILE, name, content)
        writer.finish(
            Manifest(
                format_version=FORMAT_VERSION,
                target="cuda",
                workload=Workload(name=workload, settings=dict(settings)),
                requirements=Requirements(
                    memory=sum(region.size for region in regions),
                    architecture=f"sm_{major}{minor}",
                    driver=13000,
                ),
                producer={"torch": str(torch.__version__), "cuda": torch.version.cuda or ""},
                provenance={"device": torch.cuda.get_device_name(arena.device)},
                regions=tuple(regions),
                tensors=tuple(_tensor(recording, tensor) for tensor in named),
                kernels=kernels,
                functions=functions.functions,
                variables=tuple(
                    Variable(kernel=kernel, name=name, data=data)
                    for (kernel, name), data in functions.variables.items()
                ),
                templates=tuple(templates.templates),
                graphs=tuple(graphs),
                weights=recipes,
            )
        )
