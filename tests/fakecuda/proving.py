"""A process that captured on the stand-in driver; its bundle may give something else elsewhere.

`python -m tests.fakecuda.proving FOLDER CASE...` saves a bundle by the recorder, or tries to, in a
process for each case, whose folder in FOLDER is named after it. It prints, as JSON, what the
recorder said by case; where a process failed, null.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np
import torch

from foundryc import recorder, relocate
from foundryc.capture import Capture, RegionImage
from foundryc.compare import compare
from foundryc.cuda import driver, proof
from foundryc.cuda.graph import NamedTensor, RecordedGraph
from foundryc.difference import graph_title
from foundryc.template import GraphTable
from foundryrt.bundle.schema import DTYPES, Ranks, Region, Relocation, Tensor
from foundryrt.bundle.tables import NO_FUNCTION
from foundryrt.cuda.arena import Arena
from foundryrt.cuda.device import open_device
from foundryrt.cuda.driver import driver as runtime_driver
from foundryrt.errors import FoundryError
from foundryrt.undo import Undo
from tests.fakecuda import bundle as counters
from tests.fakecuda import test_placement as placement

MOVED = (1 << 41) + (10 << 20)
FIRST, SECOND = 11, 17
"""Words with count and increment of the kernels of `step`: the last of 6, behind 6 of a memset."""
WORDS, SLABS, STRIDE = 7 * counters.COUNT, counters.BASE + 4 * counters.REGION, 4 << 20
"""Where a case with ranks has their words, in `io`, and their slabs."""
POINTER, COPIED, UNSTEADY = (counters.IO + 4 * counters.COUNT + 16 * i for i in range(3))
OUTPUTS = {"untouched": POINTER + 8, "skewed": COPIED, "unsteady": UNSTEADY}
"""More results of `last`: noise that no node writes, the copied address, a number of the run."""


def captures(case: str) -> list[Capture]:
    """Three: the second at the same base, the third moved.

    Behind the counters, `io` holds the address of one, which graph `last` copies, and noise.
    """
    made = []
    for number, moved in enumerate((0, 0, MOVED)):
        own = placement.capture(moved)
        state, io = own.regions
        words = struct.pack("<QQ", counters.STATE + moved + 8, 0x1234 * (number + 1) ** 5)
        first = bytes(4 * counters.COUNT) + words
        io = replace(
            io, initial=lambda first=first: [first],
            relocations=(Relocation(offset=4 * counters.COUNT, region=0),),
        )  # fmt: skip
        own = replace(own, regions=[state, io], graphs=[*own.graphs[:2], _last(own.regions)])
        if "noise" in case:
            # Of the first graph's first kernel, which is told to add to no counter: it counts not.
            own.graphs[0].words[FIRST] = np.uint64((1 + bool(moved)) << 32)
            own.graphs[1].words[SECOND] += np.uint64(bool(moved) << 32)
        if case == "initial":
            state = replace(state, initial=lambda n=number: [_counters(n)])
            own = replace(own, regions=[state, io])
        if case in OUTPUTS:
            more = Tensor(
                name=case, region=1, offset=OUTPUTS[case] - counters.IO, dtype="int64", shape=(1,),
                strides=(1,), role="output", graph=2,
            )  # fmt: skip
            own = replace(own, tensors=[*own.tensors, more])
        made.append(_with_ranks(own, moved) if "ranks" in case else own)
    return made


def _with_ranks(own: Capture, moved: int) -> Capture:
    """For three ranks; graph `step` raises counters in the first slab, too, and copies these."""
    image = RegionImage("symmetric", SLABS + moved, 3 * STRIDE, peer_stride=STRIDE)
    words = Tensor(
        name="ranks", region=1, offset=WORDS, dtype="int32", shape=(4,), strides=(1,), role="state"
    )
    regions, start = [*own.regions, image], own.regions[1].base
    copy = [image.base, start, 0, 0, 0, 64, 1, 0, 0, 0, 64, 1, 64, 1, 1]
    graph = GraphTable.of_nodes(
        "last", {}, [counters.KERNEL, counters.MEMCPY], [1, NO_FUNCTION],
        [counters._skeleton(packed=True), b""],
        [np.array(w, np.uint64) for w in (counters._launch(image.base, 1000), copy)],
        [(0, 1, 0, 0, 0)],
    )  # fmt: skip
    needs = msgspec.structs.replace(own.requirements, memory=own.requirements.memory + STRIDE)
    return replace(
        own, regions=regions, tensors=[*own.tensors, words], requirements=needs,
        ranks=Ranks(world=3, words=len(own.tensors)),
        graphs=[*own.graphs[:2], placement._relocated(graph, regions)],
    )  # fmt: skip


def _last(regions: Sequence[RegionImage]) -> GraphTable:
    start = regions[1].base - counters.IO
    copy = [POINTER + start, COPIED + start, 0, 0, 0, 8, 1, 0, 0, 0, 8, 1, 8, 1, 1]
    graph = GraphTable.of_nodes(
        "last", {}, [counters.MEMCPY, counters.KERNEL], [NO_FUNCTION, 1],
        [b"", counters._skeleton(packed=True)],
        [np.array(words, np.uint64) for words in (copy, counters._launch(regions[1].base, 1000))],
        [(0, 1, 0, 0, 0)],
    )  # fmt: skip
    return placement._relocated(graph, regions)


def _counters(number: int) -> bytes:
    """The first one is another one in each capture."""
    values = counters.INITIAL.copy()
    values[0] = 7 + number
    return values.tobytes()


class Graph:
    """What the recorder uses of torch's graph."""

    def __init__(self, table: GraphTable, functions: Sequence[object], stream: int) -> None:
        self._stream, self._runs = stream, 0
        self._graph = driver.call("cuGraphCreate", 0)
        nodes = []
        for node, kind in enumerate(table.columns["kind"].tolist()):
            start, end = map(int, table.columns["parameter_start"][node : node + 2])
            add = {counters.KERNEL: self._kernel, counters.MEMCPY: self._copy}
            add |= {counters.MEMSET: self._set, counters.EMPTY: self._empty}
            function = table.columns["function"][node]
            nodes.append(add[kind](table.words[start:end].tolist(), functions, int(function)))
        ends = [[nodes[i] for i in table.columns[f"edge_{end}"]] for end in ("from", "to")]
        driver.call("cuGraphAddDependencies", self._graph, *ends, None, len(ends[0]))
        self._exec = driver.call("cuGraphInstantiate", self._graph, 0)

    def _kernel(self, words: list[int], functions: Sequence[object], function: int) -> object:
        own = driver.bindings().CUDA_KERNEL_NODE_PARAMS()
        own.func = functions[function]
        own.gridDimX = own.gridDimY = own.gridDimZ = 1
        own.blockDimX, own.blockDimY, own.blockDimZ = 32, 1, 1
        values = struct.unpack("<QII", struct.pack("<QQ", *words[4:]))
        own.kernelParams = (values, (ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32))
        return driver.call("cuGraphAddKernelNode", self._graph, None, 0, own)

    def _copy(self, words: list[int], *_: object) -> object:
        own = driver.bindings().CUDA_MEMCPY3D()
        own.srcDevice, own.dstDevice, own.WidthInBytes = words[0], words[1], words[12]
        own.Height = own.Depth = 1
        return driver.call("cuGraphAddMemcpyNode", self._graph, None, 0, own, 0)

    def _set(self, words: list[int], *_: object) -> object:
        own = driver.bindings().CUDA_MEMSET_NODE_PARAMS()
        own.dst, own.pitch, own.value, own.elementSize, own.width, own.height = words
        return driver.call("cuGraphAddMemsetNode", self._graph, None, 0, own, 0)

    def _empty(self, *_: object) -> object:
        return driver.call("cuGraphAddEmptyNode", self._graph, None, 0)

    def raw_cuda_graph(self) -> int:
        return int(self._graph)

    def raw_cuda_graph_exec(self) -> int:
        return int(self._exec)

    def replay(self) -> None:
        self._runs += 1  # something that does not repeat itself
        driver.call("cuMemcpyHtoD", UNSTEADY, self._runs.to_bytes(8, "little"), 8)
        driver.call("cuGraphLaunch", self._exec, self._stream)
        driver.call("cuStreamSynchronize", self._stream)


class Recording:
    """Graphs captured in this process, with their memory where it was at capture."""

    def __init__(self, own: Capture) -> None:
        self._own = own
        undo = Undo()
        device = open_device(runtime_driver(), 0, own.requirements, undo)
        regions = tuple(
            Region(name=i.name, base=i.base, size=i.size, peer_stride=i.peer_stride)
            for i in own.regions
        )
        Arena(device, regions, undo)
        device.enter()
        driver.bindings()
        functions = [_function(own, number) for number in range(len(own.functions))]
        stream = int(driver.call("cuStreamCreate", 1))
        self._undo = undo
        self.graphs = [
            RecordedGraph(
                table.name, table.key, number,
                outputs=[_output(own, t) for t in own.tensors if t.graph == number],
                torch_graph=Graph(table, functions, stream), table=table,
            )
            for number, table in enumerate(own.graphs)
        ]  # fmt: skip

    def capture(self, embed_weights: bool) -> Capture:
        return self._own

    def rehearse(self, made: Capture) -> proof.Rehearsal:
        return proof.rehearse(self.graphs, made.regions, made.random)

    def prove(self, path: Path, rehearsal: proof.Rehearsal) -> None:
        proof.prove(path, rehearsal.digests, [graph_title(graph.table) for graph in self.graphs])


def _function(own: Capture, number: int) -> object:
    function = own.functions[number]
    module = driver.call("cuLibraryLoadData", own.kernels[function.kernel], [], [], 0, [], [], 0)
    kernel = driver.call("cuLibraryGetKernel", module, function.name.encode())
    return driver.call("cuKernelGetFunction", kernel)


def _output(own: Capture, tensor: Tensor) -> NamedTensor:
    """The stand-in's memory is the host's."""
    address = own.regions[tensor.region].base + tensor.offset
    size = tensor.shape[0] * DTYPES[tensor.dtype]
    held = (ctypes.c_uint8 * size).from_address(address)
    return NamedTensor(tensor.name, "output", torch.frombuffer(held, dtype=torch.uint8))


class Others:
    """Captures of other processes."""

    def __init__(self, again: Capture, moved: Capture, folder: Path) -> None:
        self.again, self.moved, self.folder = lambda: again, lambda: moved, folder


def _spoiled(case: str, compared: Capture) -> Capture:
    """What a comparison would give that fails to see something."""
    if case == "lost":  # the address that the copy at the end of the second graph writes to
        graphs = list(compared.graphs)
        columns = graphs[1].columns
        kept = {name: columns[name][:-1] for name in ("relocation_word", "relocation_region")}
        graphs[1] = replace(graphs[1], columns=columns | kept)
        return replace(compared, graphs=graphs)
    if case == "skewed":  # memory holds the address of the next counter
        state, io = compared.regions
        first = bytes(4 * counters.COUNT) + struct.pack("<Q", counters.STATE + 12)
        return replace(compared, regions=[state, replace(io, initial=lambda: [first])])
    return compared


def prove(case: str, folder: Path) -> str:
    """What the recorder says of a case."""
    own, again, moved = captures(case)
    recording = Recording(own)
    if case == "adopted":
        recording.graphs = [replace(graph, torch_graph=None) for graph in recording.graphs]
    with (
        mock.patch.object(recorder, "_open_recording", lambda *_: recording),
        mock.patch.object(torch.cuda, "synchronize", lambda: None),
        mock.patch.object(
            relocate, "compare", lambda *made: _spoiled(case, compare(*made))
        ),
    ):  # fmt: skip
        others = Others(again, moved, folder / "others")
        others.folder.mkdir()
        made = recorder.Recorder("cuda", "counters", {}, elsewhere=others)
        try:
            made.save(folder / "kept.fdy")
        except FoundryError as error:
            return str(error)
    return ""


def main(folder: Path, *cases: str) -> None:
    said = {}
    for case in cases:
        own = folder / case
        own.mkdir()
        # What is imported, torch most of all, takes longer than the case.
        if child := os.fork():
            _, status = os.waitpid(child, 0)
            said[case] = (own / "said").read_text() if status == 0 else None
            continue
        try:
            (own / "said").write_text(prove(case, own))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
