"""Running a bundle: open it, write inputs, launch graphs, read results."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from foundryrt.backend import Backend, open_backend
from foundryrt.bundle import schema
from foundryrt.bundle.reader import Bundle
from foundryrt.errors import UsageError, closed
from foundryrt.graph import Graph, graph_index, listed
from foundryrt.grow import growing_regions, grown, rows_of
from foundryrt.remote.bundle import open_bundle
from foundryrt.same_weights import check_same_weights
from foundryrt.trust import KeyPath, resolve
from foundryrt.weight_files import states_by_name
from foundryrt.whole import whole

if TYPE_CHECKING:
    from numpy.typing import NDArray  # imported by code that asks for arrays: it takes long

    from foundryrt.protocols import GraphKey, Tensor
    from foundryrt.ranks.followers import Followers
    from foundryrt.trust import Trust
    from foundryrt.weight_files import FileState

_ADDRESSES = (1 << 64) - 1


@dataclass(frozen=True)
class _How:
    """What a bundle is opened with; but for the ranks, another in its place, too."""

    trust: Trust | None
    weights: Path | None
    device: int
    followers: Followers | None


class Session:
    """An open bundle, ready to launch. Use `Session.open`, best in a `with` statement."""

    def __init__(self, bundle: Bundle, backend: Backend, how: _How) -> None:
        self._bundle = bundle
        self._how = how
        self._opened: Backend | None = backend
        manifest = bundle.manifest
        self.workload = manifest.workload.name
        """Name of the workload that made the bundle."""
        self.settings = dict(manifest.workload.settings)
        """What the workload was captured with."""
        self.graphs = [(graph.name, dict(graph.key)) for graph in manifest.graphs]
        """Name and key of every graph."""
        self._tensors = {(tensor.graph, tensor.name): tensor for tensor in manifest.tensors}
        self._compared: dict[str, FileState] = {}
        """Weight files, by name, as they were when their contents were compared."""

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | Bundle,
        weights: str | os.PathLike[str] | None = None,
        device: int = 0,
        first: tuple[str, dict[str, int | str]] | None = None,
        trust: KeyPath | Iterable[KeyPath] | None = None,
        load_weights: bool = True,
        base: int | None = None,
        place: Mapping[str, object] | None = None,
        grow: Mapping[str, int] | None = None,
        followers: Followers | None = None,
    ) -> Session:
        """Check the bundle at `path`, a file or a URL, fill its arena and make it ready.

        A bundle that is open, and was checked as `trust` says, may be given in place of its path;
        the session closes it.
        `weights` is a folder with the weight files, where they are not where they were at capture.
        `device` and `first`, the graph to have ready first, matter on cuda. `trust` names PEM
        files, or folders of them, with the public keys whose signature is required; without it
        FOUNDRY_TRUST does (foundryrt/trust.py). With `load_weights=False` weights that come from
        files stay zero until the session's `load_weights` is called. On cuda, memory lies where it
        was at capture if these addresses are free, else anywhere if the bundle can be moved; with
        `base` it begins there.

        `place` gives memory for regions, by name: another session, whose region of that name has
        the same contents and is shared, or, on cuda, a contiguous tensor on the GPU (DLPack or CUDA
        array interface) that is large enough. On the host, sessions share weights and state. What
        is given is not filled: the contents are yours, and stay when the session is closed.
        `grow` gives tensors, by name, more rows, the first dimension, than they had at capture,
        zero at first; UsageError, with the reason, where that is not known to work. A FoundryError
        says what is wrong with the bundle, its signature, the machine or a weight file.

        `followers` are the other ranks of a bundle for several (foundryrt/ranks/followers.py); this
        process is rank 0, on their first device. They do what this session does until it is closed,
        which ends them; RankLost where one fails. Without them such a bundle runs alone.
        """
        device = whole("device", device, (1 << 31) - 1)
        base = None if base is None else whole("base", base, _ADDRESSES, "give an address")
        how = _How(resolve(trust), None if weights is None else Path(weights), device, followers)
        if followers is not None and (base is not None or place or grow):
            raise UsageError("ranks open a bundle as it is: give them no base, place or grow")
        bundle = path if isinstance(path, Bundle) else open_bundle(path, how.trust)
        try:
            if grow:
                bundle.manifest = grown(bundle.manifest, grow)
            (index,) = [None] if first is None else _indices(bundle, [first])
            return cls._of_bundle(bundle, how, index, load_weights, base, place)
        except BaseException:
            bundle.close()
            raise

    def beside(
        self,
        path: str | os.PathLike[str],
        shared: Callable[[Bundle, Bundle], Iterable[str]],
        others: Callable[[Bundle], Followers | None] = lambda _: None,
        first: Callable[[Bundle], Iterable[GraphKey]] = lambda _: (),
    ) -> Session:
        """Open another bundle over memory of this session, so that it can take this one's place.

        Signatures that are required, weights folder and device are this session's.
        `shared(own, other)` is called when the other bundle is checked, before any memory is taken
        for it, and names the regions to share. With a region of a tensor that may grow, all such
        tensors have as many rows as here. `others(other)` starts the ranks of a bundle for
        several. Ranks share nothing, on either side. `first(other)` are names and keys of graphs
        that are made before its others, in this order; `prepare` waits for them. Errors are those
        of `open`, and UsageError where a region's contents differ. Either session may be closed
        first; where nothing is shared, this one may be closed already, or by `shared`.
        """
        own, how = self._bundle, self._how
        bundle = open_bundle(path, how.trust)
        try:
            place = dict.fromkeys(shared(own, bundle), self)
            if growing_regions(own.manifest) & place.keys():
                bundle.manifest = grown(bundle.manifest, rows_of(own.manifest))
            if place:
                self._backend()
                if how.followers is not None or bundle.manifest.ranks:
                    raise UsageError("ranks share no memory with another session: share no region")
            device = how.followers.devices[0] if how.followers else how.device
            order = _indices(bundle, first(bundle))
            followers = others(bundle)
            how = replace(how, device=device, followers=followers)
            session = Session._of_bundle(bundle, how, place=place, order=order)
            if "weights" in place:
                session._compared = self._compared
            return session
        except BaseException:
            bundle.close()
            raise

    def check_weights(self, other: Bundle) -> None:
        """UsageError unless another bundle, for any number of ranks, has the same weights.

        Where the two read other parts of a file, it is read for it, unless it is the one that this
        session has compared, and was not changed since.
        """
        own, folder = self._bundle.manifest, self._how.weights
        check_same_weights(own, other.manifest, folder, self._compared)

    @property
    def timeline(self) -> list[tuple[str, float]]:
        """Steps of the opening and when each was done (time.perf_counter, seconds)."""
        return list(self._backend().timeline)

    @property
    def followers(self) -> Followers | None:
        """The other ranks, where there are any."""
        return self._how.followers

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the arena and the graphs; a second call does nothing.

        No other thread may be using the session: what it uses is freed. A session that nobody
        closes is freed with the last reference to it, its graphs, pipelines and tensors.
        """
        backend, self._opened = self._opened, None
        if backend is not None:
            try:
                backend.close()
            finally:
                self._bundle.close()

    def graph(self, name: str, /, **key: int | str) -> Graph:
        """The graph of that name and key; UsageError lists what there is."""
        self._backend()
        index = graph_index(self.graphs, name, key)
        return Graph(self._backend, partial(self._schema, graph=index), index)

    def tensor(self, name: str) -> Tensor:
        """A shared tensor in place: a numpy view on host, a DeviceTensor on cuda (see `Tensor`).

        UsageError where none has that name, here and below.
        """
        return self._backend().tensor(self._schema(name))

    def read(self, name: str) -> NDArray[Any]:
        """A copy of a shared tensor in host memory, of its shape and dtype."""
        return self._backend().read(self._schema(name))

    def write(self, name: str, values: NDArray[Any]) -> None:
        """Replace the contents of a shared tensor; UsageError unless shape and dtype agree."""
        self._backend().write(self._schema(name), values)

    def file(self, name: str) -> bytes:
        """A file that was attached at capture; UsageError where none has that name."""
        return self._with_file(name).file(name)

    def file_digest(self, name: str) -> bytes:
        """A digest of such a file: files of equal digests have equal contents."""
        return self._with_file(name).file_digest(name)

    def _with_file(self, name: str) -> Bundle:
        self._backend()
        if name not in self._bundle.files:
            raise UsageError(f"no file {name!r} in the bundle; there is {listed(self.files)}")
        return self._bundle

    @property
    def files(self) -> list[str]:
        """Names of the attached files."""
        return list(self._bundle.files)

    @property
    def digest(self) -> str:
        """SHA-256 of the bundle, as hexadecimal: equal for equal contents."""
        return self._bundle.digest.hex()

    @property
    def weights_digest(self) -> str:
        """SHA-256 over the digests of all weights, as hexadecimal: equal for equal models."""
        manifest, found = self._bundle.manifest, hashlib.sha256()
        for source in manifest.weights.sources:
            found.update(source.digest)
        for section in self._bundle.sections:
            if section.kind == schema.SectionKind.REGION and section.name == "weights":
                found.update(section.sha256)
        return found.hexdigest()

    @property
    def tensors(self) -> list[schema.Tensor]:
        """Name, dtype, shape and role of every tensor that has a name.

        `graph` is the index in `graphs` of the one that owns it, -1 where all share it.
        """
        return list(self._bundle.manifest.tensors)

    @property
    def rows(self) -> dict[str, int]:
        """How many rows, the first dimension, each tensor has that may grow, by name."""
        return rows_of(self._bundle.manifest)

    def ready(self, name: str | None = None, /, **key: int | str) -> int:
        """How many graphs can be launched without waiting; given a graph, 1 if it can, else 0.

        A graph that is not ready is made ready by its first launch, ahead of all others.
        """
        index = None if name is None else graph_index(self.graphs, name, key)
        return self._backend().ready(index)

    def wait(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Block until every graph is ready; `progress` gets (ready, all) as they become so.

        FoundryError says what stopped the background work.
        """
        self._backend().wait(progress)

    def prepare(
        self,
        graphs: Iterable[GraphKey],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Block until these graphs, by name and key, can be launched, ahead of all others.

        The whole bundle is read and checked then and its kernels are loaded, so that only the
        driver can fail to make one of the others, in the background; `wait` raises that. Where
        memory is short, on the host and with other ranks, every graph is waited for. `progress`
        gets (ready, all) as graphs become ready. Errors are those of `graph` and `wait`.
        """
        backend = self._backend()
        backend.prepare(_indices(self._bundle, graphs), progress)

    def seed(self, seed: int) -> None:
        """Seed the random numbers that graphs draw, as torch.manual_seed does.

        Until then a session has the seed of its capture. UsageError where no graph draws any.
        """
        self._backend().seed(seed)

    def load_weights(self, check: bool = True) -> None:
        """Fill the weights of a session opened with `load_weights=False`, or fill them again.

        `check=False` compares only the files' sizes, not the digests of their contents.
        """
        before = states_by_name(self._bundle.manifest, self._how.weights) if check else {}
        self._backend().load_weights(check)
        self._note_compared(before)

    def free_memory(self) -> int | None:
        """Bytes of the device that can still be allocated, by any process; None on the host."""
        return self._backend().free_memory()

    def synchronize(self) -> None:
        """Wait for everything queued on the session's stream; nothing to wait for on host."""
        self._backend().synchronize()

    @classmethod
    def _of_bundle(
        cls,
        bundle: Bundle,
        how: _How,
        first: int | None = None,
        load_weights: bool = True,
        base: int | None = None,
        place: Mapping[str, object] | None = None,
        order: Sequence[int] = (),
    ) -> Session:
        """Of a bundle that is open; `first` and `order` are indices of graphs."""
        loads = load_weights and "weights" not in (place or {})
        before = states_by_name(bundle.manifest, how.weights) if loads else {}
        if how.followers is None:
            backend: Backend = open_backend(
                bundle, how.weights, how.device, first, load_weights, base, place, order=order
            )
        else:
            from foundryrt.ranks.leader import open_leader

            backend = open_leader(bundle, how.followers, how.weights, first, load_weights)
        session = cls(bundle, backend, how)
        session._note_compared(before)
        return session

    def _note_compared(self, before: Mapping[str, FileState]) -> None:
        """Contents were compared since then, of files that are still as they were.

        One rank alone compares its own parts of them.
        """
        manifest, how = self._bundle.manifest, self._how
        every = not manifest.ranks or how.followers is not None
        now = states_by_name(manifest, how.weights) if before and every else {}
        self._compared = {name: state for name, state in before.items() if now.get(name) == state}

    def _backend(self) -> Backend:
        if self._opened is None:
            raise closed()
        return self._opened

    def _schema(self, name: str, graph: int = -1) -> schema.Tensor:
        found = self._tensors.get((graph, name)) or self._tensors.get((-1, name))
        if found is None:
            known = sorted(n for owner, n in self._tensors if owner in (graph, -1))
            owners = sorted({self.graphs[g][0] for g, n in self._tensors if n == name})
            where = f"; graph {listed(owners)} has one: use graph(...).read" if owners else ""
            raise UsageError(f"no tensor {name!r}; there is {listed(known)}{where}")
        return found


def _indices(bundle: Bundle, graphs: Iterable[GraphKey]) -> list[int]:
    known = [(graph.name, dict(graph.key)) for graph in bundle.manifest.graphs]
    try:
        wanted = [(name, dict(key)) for name, key in graphs]
    except (TypeError, ValueError):
        raise UsageError('graphs are named as in ("decode", {"batch": 8})') from None
    return [graph_index(known, name, key) for name, key in wanted]
