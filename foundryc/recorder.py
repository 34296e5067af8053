"""Recording torch code into a bundle: the entry point of every capture."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar, cast

import torch

from foundryc import accepted, capture_file
from foundryc.capture import Capture
from foundryc.elsewhere import Elsewhere, moved, store
from foundryc.home import without_home
from foundryc.module import WeightPath, members
from foundryc.ranks import Ranks, open_ranks
from foundryc.recording import GraphRecording, Recording
from foundryc.relocate import write_proved
from foundryc.weights import WeightSlice
from foundryc.write import Setting, write_bundle
from foundryrt.atomic import check_output
from foundryrt.bundle.layout import check_name
from foundryrt.bundle.schema import ROLES, TARGETS
from foundryrt.errors import UsageError
from foundryrt.regular import refuse_input

if TYPE_CHECKING:
    from foundryc.cuda.build import Build
    from foundryc.cuda.recording import CudaRecording

F = TypeVar("F", bound=Callable[..., object])
Key = dict[str, int | str]


def _open_recording(target: str, base: int | None, compared: bool) -> Recording:
    if target == "host":
        from foundryc.host.recording import HostRecording

        return HostRecording()
    from foundryc.cuda.arena import BASE
    from foundryc.cuda.recording import CudaRecording

    return CudaRecording(BASE if base is None else base, moved=moved(), compared=compared)


class Recorder:
    """Records graphs of torch code for `target` ("host" or "cuda") and saves them as a bundle.

    with Recorder(target="host", workload="demo", settings={"width": 64}) as r:
        w = r.register("w", weight, role="weight")
        x = r.register("x", torch.zeros(8, 64), role="input")
        with r.graph("forward", batch=8) as g:
            g.output("y", x @ w)
        r.save("demo.fdy")

    `settings` is flat: what the workload's driver must know about the capture. A home folder in it
    is kept as `~`, for a bundle names no user. `progress` is told what comes next. `base` is the
    first address of the memory on cuda, the same for all by default.
    A bundle is bound to it, unless `elsewhere` offers captures of the same program to compare with.
    `architectures`, such as `sm_80`, are of GPUs that the bundle is to run on beside this one.
    """

    def __init__(
        self,
        target: str,
        workload: str,
        settings: Mapping[str, Setting],
        compile: bool = False,
        progress: Callable[[str], None] | None = None,
        base: int | None = None,
        elsewhere: Elsewhere | None = None,
        architectures: Sequence[str] = (),
    ) -> None:
        if target not in TARGETS:
            raise UsageError(f"target {target!r}: use one of {', '.join(TARGETS)}")
        if compile and target != "cuda":
            raise UsageError("--compile needs --target cuda: compiled CPU code is no ATen operator")
        self._compile = compile
        self._compiled = False
        if architectures and target != "cuda":
            raise UsageError("architectures are of GPUs: only --target cuda has them")
        if elsewhere is not None and target != "cuda":
            raise UsageError("captures elsewhere are compared for --target cuda alone")
        if base is not None and target != "cuda":
            raise UsageError(f"base {base:#x}: only --target cuda has memory at an address")
        self._progress = progress or (lambda _: None)
        self.target = target
        self._workload = accepted.name("the workload", workload)
        self._settings = {
            key: without_home(value) if isinstance(value, str) else value
            for key, value in accepted.settings(settings).items()
        }
        self._files: dict[str, bytes] = {}
        self._elsewhere = elsewhere
        compared = elsewhere is not None or store() is not None
        self._recording = _open_recording(target, base, compared)
        self._architectures = tuple(dict.fromkeys(architectures))
        self._ranks: Ranks | None = None
        self._begun = False
        self._graphs: set[str] = set()
        self._inside = ""
        """The graph whose block is running."""
        self._read: set[Path] = set()
        """Weight files: the bundle must replace none of them."""
        self._by_rank = False
        """Whether ranks have unlike weights."""

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to undo: the arena lives as long as the tensors in it."""

    def register(
        self,
        name: str,
        tensor: torch.Tensor,
        role: str,
        slices: Sequence[WeightSlice] | None = None,
        grows: int | None = None,
    ) -> torch.Tensor:
        """A tensor of the same shape, dtype and contents in the arena, to be used from now on.

        `role`: weight and constant are only read by graphs; state is kept and updated in place by
        them; input is written before a launch; output is memory that graphs write results into.
        Every role begins, online, with the contents it has now. `slices` say where in the user's
        files a weight's contents come from: it is then stored as that recipe, and not compared with
        them, as `module` does. Slices may be of single ranks, the same number of elements for each
        (`WeightSlice.rank`).

        State with `grows` may have up to so many rows, its first dimension, in a session
        (`Session.open(grow=...)`). On cuda the workload is captured once more with that many, and
        must then not take its sizes from this tensor: where anything but its size is another one,
        the bundle keeps the reason, and the tensor its rows. On host it stays.
        """
        self._check_tensor(name, tensor)
        if role not in ROLES:
            raise UsageError(f"{name}: role {role!r}, use one of {', '.join(ROLES)}")
        if slices and role != "weight":
            raise UsageError(f"{name}: only weights are filled from files, this is a {role}")
        self._by_rank = self._by_rank or any(part.rank >= 0 for part in slices or ())
        self._read |= {part.stored.path for part in slices or ()}
        if grows is None:
            return self._recording.register(name, tensor, role, slices or ())
        if role != "state" or not tensor.dim() or not tensor.numel() or grows < tensor.shape[0]:
            raise UsageError(
                f"{name}: only state with rows grows, to no fewer than it has; this is a {role} of"
                f" shape {tuple(tensor.shape)} that is to grow to {grows}"
            )
        if self.target == "host":
            return self._recording.register(name, tensor, role)
        return cast("CudaRecording", self._recording).register_growing(name, tensor, grows)

    def _check_tensor(self, name: str, tensor: torch.Tensor) -> None:
        accepted.tensor(accepted.name("the tensor", name), tensor)
        self._outside(name)

    def _outside(self, what: str) -> None:
        """UsageError within the block of a graph."""
        if self._inside:
            raise UsageError(
                f"{what}: inside the block of graph {self._inside}; do it before, or after"
            )

    def module(
        self, module: torch.nn.Module, prefix: str = "", files: Iterable[WeightPath] | None = None
    ) -> None:
        """Register the parameters and buffers of `module`, each once, as `prefix` and their names.

        They lie in the arena afterwards, and `module` uses them there. What `files` hold comes
        from them online: safetensors files or folders of them, by default the local folder that a
        model of transformers was loaded from. A tensor is found in them by its name and shape or,
        where modules fuse or rename what is stored, by its contents, and always compared byte by
        byte. Tensors that no file holds are stored in the bundle. Parameters are weights, which
        graphs only read; buffers that no file holds are state.
        UsageError where a tensor is not dense or is on the meta device, or a file is damaged.
        """
        if not isinstance(module, torch.nn.Module):
            raise UsageError(f"{prefix!r}: is a {type(module).__name__}; give a torch module")
        for member in members(module, files):
            placed = self.register(
                prefix + member.name, member.tensors[0].detach(), member.role, member.slices
            )
            for tensor in member.tensors:
                tensor.data = placed

    def compiled(self, function: F) -> F:
        """`function` under torch.compile where the capture asks for it (`--compile`)."""
        if not self._compile:
            return function
        # One function serves every graph; the default limit would silently leave the rest eager.
        torch._dynamo.config.recompile_limit = 4096
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        self._compiled = True
        return cast(F, torch.compile(function))

    def warm_up(self) -> AbstractContextManager[None]:
        """Run the workload once in this block before its graphs: on cuda, libraries and caches
        come up inside the arena. On host it does nothing."""
        return self._recording.warm_up()

    def program(self) -> AbstractContextManager[None]:
        """Run a program around its graphs in this block: what it makes need not be registered.

        A graph may use any tensor that the block made before it. The bundle holds such memory with
        what it held before the first graph that used it; where it is kept by name, and on cuda
        always, before the first graph after that or after it was made. Graphs name what is written
        before a launch with `input`; `keep` names memory for all graphs. On cuda, run a graph's
        code once before it is recorded.
        """
        return self._recording.program()

    def keep(self, name: str, tensor: torch.Tensor) -> None:
        """Name a tensor of the program, where it lies, as state that all graphs share."""
        self._check_tensor(name, tensor)
        self._recording.keep(name, tensor)

    def given(self, name: str, tensor: torch.Tensor) -> None:
        """Name memory, all that `tensor`'s storage has, of which the bundle holds nothing.

        Whoever opens the bundle gives memory of at least that size for it, as `place` of
        `Session.open`: an engine's cache, weights that another library loads. Call it before the
        graphs that use it. UsageError on host, where it has a name already, or where the capture
        is to be proved: another process cannot be given this one's memory.
        """
        if self._elsewhere is not None or store() is not None:
            raise UsageError(
                f"{name}: a capture with memory that is given cannot be compared with others; make"
                " it with --no-relocate"
            )
        self._check_tensor(name, tensor)
        self._recording.given(name, tensor)

    def ranks(self, world: int, capacity: int) -> Ranks:
        """Have the graphs exchange data between `world` processes, each on a GPU of its own.

        The bundle is the same for all of them, and is captured by one process alone, for which
        the parts of the others are zeros. `capacity` is how many bytes a rank can send at a time:
        larger tensors go in parts. The exchanges of a graph follow one another, on one stream.
        UsageError after a graph, for a second call, unless `world` is 2 to 64, and where all ranks
        together can send more than 8 GiB.
        """
        if self._begun or self._ranks is not None:
            raise UsageError("ranks: say how many there are once, before the first graph")
        self._ranks = open_ranks(self._recording, world, capacity)
        return self._ranks

    @contextmanager
    def graph(self, name: str, /, **key: int | str) -> Iterator[GraphRecording]:
        """Record the body of the `with` block as graph `name`; `key` tells its variants apart.

        Nothing is kept of a graph whose block is left by an exception. UsageError for a name and
        key that a graph has already, within another graph's block, and for what no name or key can
        be.
        """
        label, key = self._new_graph(name, key)
        self._progress(f"recording graph {label}")
        self._begun, self._inside = True, label
        try:
            if self._ranks is not None:
                self._ranks.begin()
            with self._recording.graph(name, **key) as graph:
                yield graph
                if self._ranks is not None:
                    self._ranks.settle()
        finally:
            self._inside = ""
        self._graphs.add(label)

    def _new_graph(self, name: str, key: Mapping[str, int | str]) -> tuple[str, Key]:
        """What to call a graph, and its key; UsageError where it cannot be or is there already."""
        accepted.name("the graph", name)
        key = accepted.key(name, key)
        label = f"{name}({', '.join(f'{part}={value!r}' for part, value in sorted(key.items()))})"
        self._outside(f"graph {label}")
        if label in self._graphs:
            raise UsageError(f"two graphs are named {label}; tell them apart by a key")
        return label, key

    @property
    def architectures(self) -> tuple[str, ...]:
        """Those that the bundle is to be for beside this GPU's: every graph needs a `build`."""
        if not self._architectures:
            return ()
        own = cast("CudaRecording", self._recording).architecture
        return tuple(name for name in self._architectures if name != own)

    def build(self, graph: GraphRecording, architecture: str) -> AbstractContextManager[Build]:
        """Record `graph` once more, after its block, as GPUs of `architecture` run it.

        Nothing runs: the block launches kernels that `Build.load` has made of binaries for that
        architecture, one after another, on the graph's inputs and outputs and on memory that torch
        gives in the block. UsageError on host, and where torch is asked for more than memory.
        """
        if self.target != "cuda":
            raise UsageError("builds are for GPUs: only --target cuda has them")
        return cast("CudaRecording", self._recording).build(graph, architecture)

    @property
    def pool(self) -> tuple[int, int]:
        """The memory pool to capture graphs with (`torch.cuda.graph(pool=...)`) that are adopted.

        The bundle then holds nothing of what they make on their way. UsageError on host.
        """
        return self._recording.pool

    def adopt(
        self, raw_graph: int, outputs: Mapping[str, torch.Tensor], name: str, /, **key: int | str
    ) -> None:
        """Keep a CUDA graph that other code captured as graph `name`, with its results by name.

        `raw_graph` is the handle of a CUgraph, which is copied here; the modules of its kernels
        must stay loaded until `save`. The memory it uses is kept as it is now; `outputs` must lie
        in it. Exchanges of `ranks` in it come between that one's `begin` and `settle`. FoundryError
        where it uses memory of the host or random numbers; UsageError on host, which has no CUDA
        graphs.
        """
        label, key = self._new_graph(name, key)
        for output, tensor in outputs.items():
            accepted.tensor(accepted.name(f"graph {label}: output", output), tensor)
        self._progress(f"adopting graph {label}")
        self._begun = True
        self._recording.adopt(raw_graph, outputs, name, **key)
        self._graphs.add(label)

    def attach(self, name: str, data: bytes) -> None:
        """Put a file into the bundle; online it is `session.file(name)`.

        UsageError for a name given twice, longer than 64 bytes or not printable.
        """
        check_name(accepted.name("the file", name))
        if name in self._files:
            raise UsageError(f"two files are attached as {name!r}")
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise UsageError(f"file {name!r}: is a {type(data).__name__}; give its bytes")
        self._files[name] = bytes(data)

    def save(self, path: str | os.PathLike[str], embed_weights: bool = False) -> None:
        """Write the bundle to the file `path`, over any that is there, once it is whole.

        Weights that have slices are stored only with `embed_weights`; UsageError where they would
        have to be those of one rank, within a graph's block, and where `path` is one of the weight
        files or in no folder. FoundryError where the disk or a weight file fails.
        """
        self._outside(f"saving {path!s}")
        if store() is None:
            check_output(Path(path))
            refuse_input("the output", path, self._read)
        if embed_weights and self._by_rank:
            raise UsageError(
                f"{path}: ranks have weights of their own, which cannot be embedded: leave them in"
                " their files"
            )
        if self._compile and not self._compiled:
            raise UsageError(f"workload {self._workload!r} does not support --compile")
        self._progress(f"writing {path}")
        capture = self._recording.capture(embed_weights)
        if any(tuple(graph.builds) != self.architectures for graph in capture.graphs):
            raise UsageError(
                f"--arch: workload {self._workload!r} does not record its graphs for other GPUs"
                f" than this one; leave out {', '.join(self.architectures)}"
            )
        if (stored := store()) is not None:
            capture_file.save(capture, stored)
        elif self._elsewhere is None:
            self._write(path, capture)
        else:
            recording = cast("CudaRecording", self._recording)
            write_proved(
                Path(path), self._write, recording, capture, self._elsewhere, self._progress
            )

    def _write(self, path: str | os.PathLike[str], capture: Capture) -> None:
        write_bundle(path, capture, self._workload, self._settings, self._files)
