"""The parts of a bundle that its graphs need, read and given to the native core in turn."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence

from foundryrt.bundle.errors import TableMalformed
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.schema import Function, Manifest, SectionKind
from foundryrt.bundle.tables import NO_FUNCTION, TemplateTable
from foundryrt.errors import FoundryError
from foundryrt.native import Materializer
from foundryrt.parallel import Worker, each
from foundryrt.undo import Undo

_TICK = 100  # milliseconds after which a waiting thread looks for Ctrl-C
_NODE_BYTES = 6 << 10
"""Device memory of a node of an executable graph, with room: 3.4 and 5.1 KB were measured, the
latter with the binaries' own (`graph_bytes` in benchmarks/results/relocate.json)."""
_FOR_THREADS = 1 << 20
"""Bytes of kernels whose digests take longer than starting threads for them."""
_PATIENCE = 1.0  # seconds that the reader waits for a caller, which may have been interrupted


def functions_of(table: TemplateTable, known: int) -> list[int]:
    """Indices of the functions that its nodes name; TableMalformed where one is not `known`."""
    found = sorted(set(table.function) - {NO_FUNCTION})
    if found and found[-1] >= known:
        raise TableMalformed("graph table: a node calls an unknown function")
    return found


def _nodes(bundle: Bundle) -> int:
    """How many nodes all graphs have, but at most one for each byte that stores graphs and kernels.

    Native threads take 7 KB of memory for each before any table has been read: a bundle of a few
    kilobytes must not claim more than its size bears out.
    """
    manifest = bundle.manifest
    kinds = (SectionKind.TEMPLATE, SectionKind.MEMBER, SectionKind.KERNEL)
    stored = sum(section.stored for section in bundle.sections if section.kind in kinds)
    return min(stored, sum(manifest.templates[graph.template].nodes for graph in manifest.graphs))


def _keys(manifest: Manifest) -> list[bytes]:
    """Of each kernel binary, what bundles that may share it as it is loaded have in common."""
    functions: list[list[Function]] = [[] for _ in manifest.kernels]
    for function in manifest.functions:
        functions[function.kernel].append(function)
    found = []
    for kernel, own in zip(manifest.kernels, functions, strict=True):
        states = sorted(
            (f.name, f.max_dynamic_shared, f.shared_carveout, f.cluster_nonportable) for f in own
        )
        found.append(hashlib.sha256(kernel.sha256 + repr(states).encode()).digest())
    return found


class Graphs:
    """Makes the bundle's graphs launchable in the background.

    `first` is made before all others and alone, then come those in `order`. `close`, which is also
    a step of `undo`, frees them.
    """

    def __init__(
        self, bundle: Bundle, first: int | None, undo: Undo, order: Sequence[int] = ()
    ) -> None:
        self._bundle = bundle
        self._first = first
        self._order = order
        manifest = bundle.manifest
        self._native = Materializer(
            len(manifest.kernels),
            len(manifest.functions),
            len(manifest.templates),
            len(manifest.graphs),
            _nodes(bundle),
            undo,
        )
        self._total = len(manifest.graphs)
        self._keys = _keys(manifest)
        self._executables: dict[int, int] = {}
        self._declared: set[tuple[str, int]] = set()
        self._lock = threading.Lock()
        """Held while a graph is read."""
        self._changed = threading.Condition(self._lock)
        self._wanted: list[int] = []
        """Graphs that callers wait to read, before the reader takes its next one."""
        self._reader = Worker()
        self._failure: Exception | None = None
        self._stop = False
        undo.push(self.close)

    def _new(self, kind: str, index: int) -> bool:
        fresh = (kind, index) not in self._declared
        self._declared.add((kind, index))
        return fresh

    def _declare(self, index: int) -> None:
        """Give the native core what graph `index` needs and does not share with earlier ones.

        After a failure or an interrupt everything fails: nothing must be built on half a
        declaration.
        """
        if self._failure is not None:
            raise self._failure
        if self._stop:
            raise FoundryError("the session is closed; open the bundle again")
        try:
            self._read(index)
        except BaseException as error:
            interrupted = FoundryError(f"reading the bundle's graphs was interrupted ({error!r})")
            self._failure = error if isinstance(error, Exception) else interrupted
            self._native.abandon(str(self._failure))
            raise

    def _read(self, index: int) -> None:
        manifest = self._bundle.manifest
        graph = manifest.graphs[index]
        if not self._new("graph", index):
            return
        if self._new("template", graph.template):
            # The native core checks what is in it.
            table = self._bundle.unchecked_template(graph.template)
            numbers = functions_of(table, len(manifest.functions))
            self._give_kernels({manifest.functions[number].kernel for number in numbers})
            for number in numbers:
                if self._new("function", number):
                    self._native.set_function(number, manifest.functions[number])
            self._native.set_template(graph.template, table)
        label = " ".join([graph.name, *(f"{k}={v}" for k, v in graph.key.items())])
        self._native.set_graph(index, label, graph.template, self._bundle.member(index))

    def _give_kernels(self, kernels: set[int]) -> None:
        fresh = [kernel for kernel in sorted(kernels) if self._new("kernel", kernel)]
        sections = (self._bundle.manifest.kernels[kernel].section for kernel in fresh)
        if sum(self._bundle.sections[section].stored for section in sections) > _FOR_THREADS:
            each(self._bundle.kernel, fresh)  # digests, several at once
        for kernel in fresh:
            self._native.set_kernel(kernel, self._bundle.kernel(kernel), self._keys[kernel])
        for variable in self._bundle.manifest.variables:
            if variable.kernel in fresh:
                self._native.set_variable(variable)

    def require(self, index: int) -> int:
        """The CUgraphExec of graph `index`, launchable when this returns."""
        if index not in self._executables:
            # The lock alone would let the reader take it again and again, to the last graph.
            self._wanted.append(index)
            with self._lock:
                if index in self._wanted:
                    self._wanted.remove(index)
                self._changed.notify()
                self._declare(index)
            self._executables[index] = self._native.require(index)
        return self._executables[index]

    def read(self) -> None:
        """Read all graphs in the background: the driver may still be starting."""
        self._reader.start(self._declare_all)

    def start(self, context: int, deltas: Sequence[int]) -> None:
        """Make all graphs in a CUcontext, in the background; `deltas` as for Materializer.start."""
        self._native.start(context, self._first, self._bundle.manifest.regions, deltas)

    def _in_order(self) -> list[int]:
        """All graphs, as they are read and made."""
        first = [] if self._first is None else [self._first]
        return list(dict.fromkeys([*first, *self._order, *range(self._total)]))

    def _declare_all(self) -> None:
        for index in self._in_order():
            with self._lock:
                while self._wanted and not self._stop and self._changed.wait(_PATIENCE):
                    pass
                self._wanted.clear()
                try:
                    self._declare(index)
                except Exception:
                    return  # kept, and raised to every caller

    @property
    def ready(self) -> int:
        """How many graphs can be launched."""
        return self._native.ready

    @property
    def spent(self) -> dict[str, float]:
        """Seconds that loading, resolving, building, instantiating and uploading have taken."""
        return self._native.spent

    def is_ready(self, index: int) -> bool:
        """Whether graph `index` can be launched at once."""
        return self._native.is_ready(index)

    @property
    def bytes_left(self) -> int:
        """Device memory that the driver may take for graphs that are not made yet."""
        manifest = self._bundle.manifest
        left = (graph for i, graph in enumerate(manifest.graphs) if not self.is_ready(i))
        return _NODE_BYTES * sum(manifest.templates[graph.template].nodes for graph in left)

    def take_memory(self) -> None:
        """Touch host memory for the graphs, in the background; the driver may still be starting."""
        self._native.touch()

    def pause(self, paused: bool) -> None:
        """Whether to begin no graph but those that are preferred or required."""
        self._native.pause(paused)

    def prefer_first(self) -> None:
        """As `prefer`, of the graph that comes first: a likely one to be launched first, too."""
        if self._total:
            self.prefer(self._in_order()[0])

    def prefer(self, index: int) -> None:
        """Have graph `index` made next, unless that has begun, once it is read, in its turn."""
        self._native.prefer(index)

    def prepare(
        self,
        graphs: Sequence[int],
        progress: Callable[[int, int], None] | None = None,
        done: Callable[[str], object] = lambda step: None,
    ) -> None:
        """Block until these can be launched; the rest is read and checked, its kernels are loaded.

        `progress` as for `wait`; `done` is told of steps. Afterwards a graph can fail in the driver
        alone.
        """
        # Another graph that is being made holds the driver's lock, for milliseconds at a time.
        self.pause(True)
        try:
            for index in reversed(graphs):
                self.prefer(index)
            self._reader.join()
            done("read")
            if self._failure is not None:
                raise self._failure
            self._native.resolve()
            done("resolved")
            self._until(lambda _: all(map(self.is_ready, graphs)), progress, 1)
        finally:
            self.pause(False)
        for index in graphs:
            self.require(index)  # its upload has ended, too

    def wait(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Block until every graph can be launched; raises what stopped the background work.

        `progress` gets (ready, all) whenever more are ready.
        """
        # Without a callback there is no need to wake up for each graph.
        step = self._total if progress is None else 1
        self._until(lambda ready: ready == self._total, progress, step)

    def _until(
        self,
        done: Callable[[int], bool],
        progress: Callable[[int, int], None] | None,
        step: int,
    ) -> None:
        """Until `done(ready)`, asked whenever `step` more graphs are ready."""
        seen = -1
        while True:
            try:
                ready = self._native.wait(min(seen + step, self._total), _TICK)
            except FoundryError:
                if self._failure is not None:
                    raise self._failure from None
                raise
            if ready > seen and progress is not None:
                progress(ready, self._total)
            seen = ready
            if done(ready):
                return

    def close(self) -> None:
        """Stop the background work and free graphs, functions and libraries."""
        self._stop = True
        with self._lock:
            self._executables.clear()
            self._changed.notify()
        self._reader.join()
        self._native.close()
        self._failure = None  # its traceback refers to this object
