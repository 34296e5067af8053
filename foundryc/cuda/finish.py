"""What a recording has at its end, as a capture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from foundryc.capture import Capture
from foundryc.cuda.graph import NamedTensor
from foundryc.cuda.images import arena_image, foreign_image, pointers
from foundryc.cuda.kernels import compile_source
from foundryc.cuda.randomness import Generator, find_generator
from foundryc.leaks import mapped
from foundryc.producer import producer
from foundryc.template import GraphTable, Spans
from foundryrt.bundle.schema import Growth, Requirements, Tensor
from foundryrt.errors import FoundryError

if TYPE_CHECKING:
    from foundryc.cuda.recording import CudaRecording

_DRIVER = 13000
"""The oldest that foundryrt works with, as cuDriverGetVersion gives it."""
_UNCOMPARED = "with --no-relocate nothing shows that no kernel depends on how many there are"
_DIGEST = Path(__file__).with_name("digest.cu")


def finished(recording: CudaRecording, embed_weights: bool) -> Capture:
    """Everything recorded; embedded weights are read from the device when they are written."""
    recording.binaries.refuse_addresses()
    kernels = recording.binaries.kernels()
    generator = _generator(recording)
    named = recording.tensors + [tensor for graph in recording.graphs for tensor in graph.named]
    embedded = _embedded(named, embed_weights)
    slices = {i: t.slices for i, t in enumerate(named) if t.slices and i not in embedded}
    digest_kernel = -1
    if slices:
        digest_kernel = len(kernels)
        kernels.append(compile_source(_DIGEST.read_bytes(), _DIGEST.name, recording.architecture))
    stored = [named[i].tensor for i in sorted(embedded)]
    world = recording.shared_by.world if recording.shared_by else 0
    own = [
        arena_image(recording.arena, region, stored, recording.initial, world)
        for region in recording.arena.regions.values()
    ]
    spans = Spans(
        (span.base, span.size) for regions in (own, recording.foreign.regions) for span in regions
    )
    regions = [
        *(replace(image, relocations=pointers(image, spans)) for image in own),
        *(foreign_image(number, r, spans) for number, r in enumerate(recording.foreign.regions)),
    ]
    return Capture(
        target="cuda",
        requirements=Requirements(
            memory=sum(image.memory for image in regions if not image.given),
            architecture=recording.architecture,
            driver=_DRIVER,
        ),
        producer=producer(cuda=torch.version.cuda or ""),
        provenance={"device": torch.cuda.get_device_name(recording.arena.device)},
        regions=regions,
        tensors=[
            *(_tensor(recording, tensor) for tensor in named),
            *_random_tensors(recording, generator),
        ],
        functions=recording.binaries.functions,
        variables=recording.binaries.variables(spans),
        graphs=[table.relocated(spans) for table in _tables(recording, generator)],
        random=generator.described(len(named)) if generator else None,
        kernels=kernels,
        slices=slices,
        digest_kernel=digest_kernel,
        ranks=recording.shared_by,
        growing=[
            Growth(tensor=index, most=tensor.most, refused=_UNCOMPARED)
            for index, tensor in enumerate(recording.tensors)
            if tensor.most
        ],
        mapped=mapped(Path("/proc/self/maps").read_text(), lowest=0),
    )


def _generator(recording: CudaRecording) -> Generator | None:
    """Torch's generator, if it can be one of what graphs use outside the arena."""
    if not any(region.owner.startswith("torch") for region in recording.foreign.regions):
        return None
    found = find_generator(recording.arena.device, recording.stream)
    return None if recording.foreign.locate(found.seed) is None else found


def _tables(recording: CudaRecording, generator: Generator | None) -> list[GraphTable]:
    """The graphs, with what each consumes of the random numbers."""
    tables = []
    for graph in recording.graphs:
        if graph.table is None:
            raise FoundryError(f"graph {graph.name} was not captured")
        drawn = generator.drawn(graph, recording.arena.device) if generator else 0
        tables.append(replace(graph.table, random=drawn))
    return tables


def _random_tensors(recording: CudaRecording, generator: Generator | None) -> list[Tensor]:
    """Seed and offset, in this order."""
    return [
        Tensor(name=name, region=len(recording.arena.regions) + place[0], offset=place[1],
               dtype="int64", shape=(1,), strides=(1,), role="state")
        for name, address in (generator.places if generator else {}).items()
        if (place := recording.foreign.locate(address)) is not None
    ]  # fmt: skip


def _tensor(recording: CudaRecording, named: NamedTensor) -> Tensor:
    place = recording.locate(named.tensor)
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


def _embedded(named: list[NamedTensor], embed: bool) -> set[int]:
    """The weights whose bytes the bundle holds: those that are in no file, or all."""
    return {i for i, t in enumerate(named) if t.role == "weight" and (embed or not t.slices)}
