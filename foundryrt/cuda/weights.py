"""Weights from the user's files to the device, by the bundle's recipes.

Copies that move rows, or columns of rows, as they are go from the file into a staging buffer, where
their digest is computed, and from there to the device; tensors that must be decoded or re-ordered
are assembled on the host first. Where the bundle brings a kernel for it, the device computes the
digests of sources that arrived whole, and native threads read. They read what other ranks digest,
too, of which no more than is needed. The weights must not be used before `WeightLoader.load` has
returned: copies begin before the digests are compared.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from foundryrt.bundle.schema import Manifest, WeightSource
from foundryrt.cuda.arena import Arena
from foundryrt.cuda.digest import Digester, Range
from foundryrt.cuda.plan import Plan, Run, piece_bytes
from foundryrt.cuda.upload import Uploader
from foundryrt.errors import FoundryError, UsageError
from foundryrt.native import FileRange
from foundryrt.parallel import each
from foundryrt.sharing import digested_by
from foundryrt.undo import Undo
from foundryrt.weight_files import FileState, OpenFile, check_states
from foundryrt.weights import check_digest, find_file, hasher


class WeightLoader:
    """Fills every tensor of a bundle that has a recipe, where there are several by that of `rank`.

    Where ranks have `shared` out the digests, it takes those of this one alone.
    `digester` makes what takes BLAKE3 digests of device memory. The CPU takes those of other kinds
    and of sources that do not arrive as a whole or arrive twice; without `digester` it takes all.
    What needs no weight file is worked out once, by `prepare` or the first load. `undo` ends a
    load that was interrupted; it must be a part of its own. `done` is told of steps of a load.
    """

    def __init__(
        self,
        manifest: Manifest,
        arena: Arena,
        uploader: Uploader,
        undo: Undo,
        digester: Callable[[Sequence[Range]], Digester] | None = None,
        rank: int = 0,
        shared: bool = False,
        done: Callable[[str], object] = lambda step: None,
    ) -> None:
        self._manifest = manifest
        self._arena = arena
        self._uploader = uploader
        self._undo = undo
        self._make_digester = digester
        self._rank = rank
        self._shared = shared
        self._done = done
        self._digested: Collection[int] = range(len(manifest.weights.sources))
        self._digester: Digester | None = None
        self._plan: Plan | None = None
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Do the part of a load that needs no files; after a FoundryError a load tries again."""
        self._uploader.reserve()
        with self._lock:
            self._prepare(check=True)

    def _prepare(self, check: bool) -> Plan:
        if self._plan is None:
            manifest, on_device = self._manifest, self._make_digester is not None
            if self._shared:
                self._digested = digested_by(manifest, self._rank)
            self._plan = Plan.of(manifest, self._arena, on_device, self._rank, self._digested)
        if check and self._plan.ranges and self._make_digester and self._digester is None:
            self._digester = self._make_digester(list(self._plan.ranges.values()))
        return self._plan

    def load(
        self, folder: Path | None, check: bool = True, states: Sequence[FileState] | None = None
    ) -> None:
        """Queue every tensor's bytes; errors are those of foundryrt.host.weights.load.

        `check=False` takes the files' bytes as they are; their sizes are still compared. `states`
        are what rank 0 has seen of the files, where ranks have shared out the digests.
        """
        if check and self._shared and states is None:
            raise UsageError("weights: ranks that share out the digests need the files' states")
        weights = self._manifest.weights
        paths = [find_file(file, folder) for file in weights.files]
        with self._lock:
            plan = self._prepare(check)
            self._done("load prepared")
            self._undo.close()  # an interrupt may have left something
            with self._undo:
                files = []
                for path in paths:
                    files.append(OpenFile(path))
                    self._undo.push(files[-1].close)
                check_states(files, states)
                each(lambda job: job(), self._jobs(plan, files, check), self._undo)
                ranges = self._ranges(plan, files, check)
                if ranges:
                    try:
                        self._uploader.files(ranges)
                    except FoundryError:
                        for weight_file in weights.files:
                            find_file(
                                weight_file, folder
                            )  # names a file that was truncated meanwhile
                        raise
                check_states(files, states)
            self._done("weights queued")
            if check and self._digester:
                for index, digest in zip(plan.ranges, self._digester.take(), strict=True):
                    source = weights.sources[index]
                    check_digest(source, digest, paths[source.file])

    def _jobs(self, plan: Plan, files: list[OpenFile], check: bool) -> list[Callable[[], None]]:
        """What Python threads do: assemble tensors, and take digests."""
        jobs: list[Callable[[], None]] = []
        manifest, uploader = self._manifest, self._uploader
        if plan.assembled:
            from foundryrt.cuda.assemble import assemble  # needs numpy
            from foundryrt.stored import Sources

            stored = Sources(manifest, files, self._digested, check)
            for recipe in plan.assembled:
                address = self._arena.address(manifest.tensors[recipe.tensor])
                jobs.append(partial(assemble, manifest, recipe, stored, address, uploader))
        if check:
            sources = manifest.weights.sources
            # The longest first: a source's digest is taken by one thread.
            for index in sorted(plan.streamed, key=lambda i: -sources[i].length):
                source, runs = sources[index], plan.runs[index]
                jobs.append(partial(_stream, source, files[source.file], runs, uploader))
        return jobs

    def _ranges(self, plan: Plan, files: list[OpenFile], check: bool) -> list[FileRange]:
        """What native threads read: all sources whose digests are not computed here."""
        ranges = []
        for index, runs in plan.runs.items():
            if check and index in plan.streamed:
                continue
            source = self._manifest.weights.sources[index]
            file, offset = files[source.file].descriptor, source.offset
            for run in runs:
                ranges.append(
                    FileRange(run.address, offset + run.begin, run.width, run.rows, run.pitch, file)
                )
        return ranges


def _stream(source: WeightSource, file: OpenFile, runs: list[Run], uploader: Uploader) -> None:
    """Copy a source and take its digest here, while it is in the processor's cache."""
    digest, most = hasher(source), piece_bytes(runs)
    for start in range(0, source.length, most):
        end = min(start + most, source.length)

        def fill(buffer: memoryview, start: int = start) -> None:
            file.read(source.offset + start, buffer)
            digest.update(buffer)

        pieces = (run.within(start, end) for run in runs)
        uploader.through(end - start, fill, [piece for piece in pieces if piece])
    check_digest(source, digest.digest(), file.path)
