"""Which parts of a bundle a graph needs, read and handed to the native core when it is wanted."""

from __future__ import annotations

import threading

from foundryrt.bundle.reader import Bundle
from foundryrt.native import Materializer


class Graphs:
    """The bundle's graphs on their way to the device, one asked for ahead of the rest."""

    def __init__(self, bundle: Bundle, context: int) -> None:
        self._bundle = bundle
        manifest = bundle.manifest
        self._native = Materializer(
            context,
            len(manifest.kernels),
            len(manifest.functions),
            len(manifest.templates),
            len(manifest.graphs),
        )
        self._executables: dict[int, int] = {}
        self._declared: set[tuple[str, int]] = set()
        self._lock = threading.Lock()
        self._reader: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._stop = False

    def _new(self, kind: str, index: int) -> bool:
        fresh = (kind, index) not in self._declared
        self._declared.add((kind, index))
        return fresh

    def _declare(self, index: int) -> None:
        """Give the native core what graph `index` needs and no other graph has brought yet.

        After a failure everything fails: what was declared half must not be built on.
        """
        if self._failure is not None:
            raise self._failure
        try:
            self._read(index)
        except Exception as error:
            self._failure = error
            raise

    def _read(self, index: int) -> None:
        manifest = self._bundle.manifest
        graph = manifest.graphs[index]
        if not self._new("graph", index):
            return
        if self._new("template", graph.template):
            table = self._bundle.template(graph.template)
            for number in sorted({int(f) for f in table.function[table.kind == 1]}):
                function = manifest.functions[number]
                if self._new("kernel", function.kernel):
                    data = self._bundle.kernel(function.kernel)
                    self._native.set_kernel(function.kernel, data)
                if self._new("function", number):
                    self._native.set_function(number, function)
            self._native.set_template(graph.template, table)
        label = " ".join([graph.name, *(f"{k}={v}" for k, v in graph.key.items())])
        self._native.set_graph(index, label, graph.template, self._bundle.member(index))

    def require(self, index: int) -> int:
        """The CUgraphExec of graph `index`, launchable when this returns."""
        if index not in self._executables:
            with self._lock:
                self._declare(index)
            self._executables[index] = self._native.require(index)
        return self._executables[index]

    def start(self, first: int | None = None) -> None:
        """Bring all graphs in the background, beginning with `first`."""
        if self._reader is None:
            self._reader = threading.Thread(target=self._read_all, args=(first,), daemon=True)
            self._reader.start()

    def _read_all(self, first: int | None) -> None:
        try:
            if first is not None:
                self.require(first)
            for index in range(len(self._bundle.manifest.graphs)):
                with self._lock:
                    if self._stop:
                        return
                    self._declare(index)
            self._native.start()
        except Exception as error:  # handed to whoever waits
            self._failure = error

    @property
    def ready(self) -> int:
        """How many graphs can be launched."""
        return self._native.ready

    def wait(self) -> None:
        """Block until every graph can be launched; raises what stopped the background work."""
        self.start()
        if self._reader is not None:
            self._reader.join()
        if self._failure is not None:
            raise self._failure
        self._native.wait()

    def close(self) -> None:
        """Stop the background work and free graphs, functions and libraries."""
        with self._lock:
            self._stop = True
        if self._reader is not None:
            self._reader.join()
        self._native.close()
