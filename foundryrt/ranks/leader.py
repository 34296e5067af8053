"""Rank 0's backend: every launch and write goes to the other ranks, then to the own device."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from foundryrt.arrays import check_array
from foundryrt.backend import RankBackend, open_backend
from foundryrt.bundle import schema
from foundryrt.bundle.ranks import MISSING, words_tensor
from foundryrt.errors import UsageError
from foundryrt.native.ring import MOST_BYTES, Ring, ring_file
from foundryrt.progress import progress_bar
from foundryrt.ranks.device import check_devices, hello, prepare, read_only
from foundryrt.ranks.followers import Followers
from foundryrt.ranks.records import Kind
from foundryrt.weight_files import file_states, packed

T = TypeVar("T")
if TYPE_CHECKING:
    from numpy.typing import NDArray

    from foundryrt.bundle.reader import Bundle
    from foundryrt.pipeline import Pipeline
    from foundryrt.protocols import Readback, Tensor


def open_leader(
    bundle: Bundle,
    followers: Followers,
    weights: Path | None = None,
    first: int | None = None,
    load_weights: bool = True,
) -> Leader:
    """Open the bundle on all ranks; `followers` are closed with the backend, or where this fails.

    FoundryError where a rank is late, opens another bundle, or fails; UsageError for followers that
    are another session's, which stay.
    """
    followers.take()
    try:
        world = bundle.manifest.ranks.world if bundle.manifest.ranks else 1
        if world != followers.world:
            raise UsageError(f"the bundle is for {world} ranks, and {followers.world} were started")
        check_devices(bundle, followers.devices)
        followers.meet(hello(bundle, 0, world, followers.devices[0]))
        folder = None if weights is None else os.path.abspath(weights)
        followers.tell({"weights": folder, "first": first})
        own = open_backend(
            bundle, weights, followers.devices[0], first, False, None, None, rank=0, shared=True
        )
        try:
            ring = _join(own, followers, world)
            prepare(own, bundle, first)
            followers.await_all("ready")
            leader = Leader(own, bundle, followers, ring, weights)
            if load_weights:
                leader.load_weights()
            return leader
        except BaseException:
            followers.close()  # before: news of a loss may be on its way to the backend
            own.close()
            raise
    except BaseException:
        followers.close()
        raise


def _join(own: RankBackend, followers: Followers, world: int) -> Ring:
    """Have all ranks map each other's slabs, and the ring."""
    slabs = {0: own.export_slab()}
    with progress_bar(world - 1, "waiting for ranks to open the bundle") as update:
        arrived = followers.await_all("slab", update)
    file = ring_file()
    try:
        slabs |= {rank: files[0] for rank, files in arrived.items() if files}
        followers.tell({"slabs": sorted(slabs)}, (file, *(slabs[rank] for rank in sorted(slabs))))
        own.join({rank: slab for rank, slab in slabs.items() if rank})
        return Ring(os.dup(file), world - 1)
    finally:
        for received in (file, *(each for files in arrived.values() for each in files)):
            os.close(received)


class Leader:
    """A backend that does with all ranks what `own` does as rank 0; see `Backend`.

    RankLost, once a rank has failed, ended or not answered. What fails here on its way ends the
    session too: the others have done what this rank has not.
    """

    def __init__(
        self,
        own: RankBackend,
        bundle: Bundle,
        followers: Followers,
        ring: Ring,
        weights: Path | None = None,
    ) -> None:
        self._own, self._followers, self._ring = own, followers, ring
        self._weights = weights
        self._manifest = manifest = bundle.manifest
        self._index = {(each.graph, each.name): i for i, each in enumerate(manifest.tensors)}
        self._likes: dict[int, Tensor] = {}
        """By index, tensors that were written: their shapes and dtypes."""
        self._order = threading.RLock()
        """Held by what all ranks must do in the same order."""
        self._words = self._words_readback()
        self._closed = False
        followers.on_loss.append(own.abandon)

    @property
    def timeline(self) -> list[tuple[str, float]]:
        """See Backend.timeline; of this rank."""
        return self._own.timeline

    def launch(self, graph: int, stream: int | None = None) -> None:
        if stream is not None:
            raise UsageError("several ranks launch in one order: give no stream")
        self._together(lambda: self._own.launch(graph), (Kind.LAUNCH, graph))
        if not self._words.overlaps:
            self._checked(lambda: None)

    def write(self, tensor: schema.Tensor, values: NDArray[Any]) -> None:
        import numpy as np

        index = self._index[tensor.graph, tensor.name]
        if self._manifest.ranks and index == self._manifest.ranks.words:
            raise UsageError(f"{tensor.name} says which rank each process is: it cannot be written")
        if index not in self._likes:
            self._likes[index] = self._own.tensor(tensor)
        array = np.asarray(values)
        check_array(tensor.name, array, self._likes[index])
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        starts = range(0, data.nbytes, MOST_BYTES)
        parts = ((Kind.WRITE, index, start, data[start : start + MOST_BYTES]) for start in starts)
        self._together(lambda: self._own.write(tensor, array), *parts)

    def seed(self, seed: int) -> None:
        with self._order:
            self._own.seed(seed)  # where there is nothing to seed, nobody is told
            self._together(lambda: None, (Kind.SEED, 0, seed % (1 << 64)))

    def load_weights(self, check: bool = True) -> None:
        states = file_states(self._manifest, self._weights) if check else None

        def load() -> None:
            self._own.load_weights(check, states)
            # Exchanges do not wait as long as some ranks may load after others.
            with progress_bar(0, "waiting for weights of ranks") as update:
                while not self._ring.drain():
                    self._followers.check()
                    update(0)

        told = memoryview(packed(states or ()))
        self._together(load, (Kind.LOAD_WEIGHTS, 0, int(check), told))

    def wait(self, progress: Callable[[int, int], None] | None = None) -> None:
        last = [0, 0]

        def noted(ready: int, total: int) -> None:
            last[:] = ready, total
            self._followers.check()
            if progress is not None:
                progress(ready, total)

        self._together(lambda: None, (Kind.WAIT,))
        self._own.wait(noted)
        self._followers.await_all("waited", lambda _: noted(*last))

    def prefer(self, graph: int) -> None:
        self._own.prefer(graph)

    def prepare(
        self, graphs: Sequence[int], progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Wait for every graph: a rank that makes one later would keep the others waiting."""
        self.wait(progress)

    def synchronize(self) -> None:
        self._checked(self._own.synchronize)

    def read(self, tensor: schema.Tensor) -> NDArray[Any]:
        return self._checked(lambda: self._own.read(tensor))

    def readback(self, tensor: schema.Tensor) -> Readback:
        return _Readback(self, self._own.readback(tensor), self._words_readback())

    def tensor(self, tensor: schema.Tensor) -> Tensor:
        """Only to be read: what this rank alone writes, the others do not have."""
        found: Tensor = read_only(self._own.tensor(tensor))
        return found

    def ready(self, graph: int | None = None) -> int:
        self._followers.check()
        return self._own.ready(graph)

    def free_memory(self) -> int | None:
        return self._own.free_memory()

    def pipeline(
        self,
        graph: int,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
        depth: int,
        lazy: Collection[str],
        timed: bool = False,
    ) -> Pipeline:
        raise UsageError("several ranks have no pipeline: use write, launch and read")

    def close(self) -> None:
        """End all ranks; the others first finish what they have been told."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._followers.lost is None:
                self._followers.expect_end()
                self._ring.put(Kind.CLOSE)
        finally:
            try:
                self._likes.clear()
                self._own.close()
            finally:
                self._followers.close()
                self._ring.close()

    def check_words(self, words: Readback) -> None:
        """RankLost where `words`, whose copy was started, name a rank that did not answer."""
        missing = int(words.wait()[MISSING])
        if missing:
            self._followers.lose_missing(missing - 1)
        self._followers.check()

    def _checked(self, call: Callable[[], T]) -> T:
        """What `call` gives, which waits for all launches; RankLost where one had no answer."""
        self._followers.check()
        self._words.start()
        found = call()
        self.check_words(self._words)
        return found

    def _together(self, own: Callable[[], object], *records: tuple[Any, ...]) -> None:
        """Tell the others to do what `own` does here, at the same place in the order."""
        with self._order:
            self._followers.check()
            try:
                for record in records:
                    while not self._ring.put(*record):
                        self._followers.check()
                own()
            except BaseException as error:
                self._followers.lose(0, f"failed: {str(error) or type(error).__name__}")
                raise

    def _words_readback(self) -> Readback:
        words = words_tensor(self._manifest)
        assert words is not None
        return self._own.readback(words)


class _Readback:
    """`copies`, and with them the words that say whether all ranks have answered."""

    def __init__(self, leader: Leader, copies: Readback, words: Readback) -> None:
        self._leader, self._copies, self._words = leader, copies, words
        self.overlaps = copies.overlaps

    def start(self) -> None:
        self._words.start()
        self._copies.start()

    def wait(self) -> NDArray[Any]:
        found = self._copies.wait()
        self._leader.check_words(self._words)
        return found
