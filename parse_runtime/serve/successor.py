"""The bundle that is to take another's place in a server, opened beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import msgspec

from foundryrt.bundle.reader import Bundle
from foundryrt.console import note
from foundryrt.errors import FoundryError, UsageError
from foundryrt.grow import grown, rows_of
from foundryrt.protocols import GraphKey
from foundryrt.ranks.command import check_more, more
from foundryrt.ranks.followers import Followers
from foundryrt.session import Session
from parse_runtime.graphs.continuing import shared_regions
from parse_runtime.graphs.first import first_graphs
from parse_runtime.graphs.loading import Loaded, load, texts
from parse_runtime.serve.served import Served

Progress = Callable[[int, int], None]


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """The bundle to serve: a path on the server's machine, or a URL; and by how many ranks."""

    bundle: Annotated[str, msgspec.Meta(pattern="^[^\\0]+$")]
    tp: Annotated[int, msgspec.Meta(ge=1)] | None = None
    devices: list[Annotated[int, msgspec.Meta(ge=0)]] | None = None
    """The GPU of each rank."""
    stop_first: bool = False
    """Close what is served before the other is opened: where there is no room for both."""


@dataclass(frozen=True)
class Successor:
    """An open bundle; the graphs that running answers need are ready (`first_graphs`)."""

    session: Session
    loaded: Loaded
    shared: list[str]
    """Regions that it has in common with the one before."""


def open_successor(
    before: Served,
    asked: Asked,
    unlike_tokenizers: str,
    progress: Progress,
    stop: Callable[[Bundle], None] | None = None,
) -> Successor:
    """Open what is asked for; UsageError where it is not of the models of `before`.

    `progress` is called as graphs become ready; what it raises ends the wait. `stop` is called with
    the bundle of `before` once the other one is checked, and nothing is shared then. The session's
    `wait` waits for the graphs that nobody needs yet: only the driver can fail to make one.
    """
    shared: list[str] = []

    def choose(own: Bundle, other: Bundle) -> list[str]:
        check_more(other.manifest, asked.tp, asked.devices)
        shared.extend(shared_regions(own, other))
        if stop or not shared:
            before.session.check_weights(other)
        _check_tokenizers(before.loaded, other)
        if stop:
            shared.clear()
            stop(own)
        return shared

    def others(other: Bundle) -> Followers | None:
        return more(other.manifest, asked.bundle, asked.tp, asked.devices)

    first = _First(before)
    session = before.session.beside(asked.bundle, choose, others, first)
    return _ready(session, first, shared, unlike_tokenizers, progress)


def open_again(
    before: Served, own: Bundle, unlike_tokenizers: str, progress: Progress
) -> Successor:
    """Open what was served before, whose session is closed, with as many blocks in the caches."""

    def choose(_: Bundle, other: Bundle) -> list[str]:
        if other.digest != own.digest:
            raise FoundryError(f"{own.path} is another bundle by now")
        other.manifest = grown(other.manifest, rows_of(own.manifest))
        return []

    def others(other: Bundle) -> Followers | None:
        if (ranks := before.session.followers) is None:
            return None
        devices = ranks.devices if other.manifest.target == "cuda" else None
        return more(other.manifest, str(own.path), ranks.world, devices)

    first = _First(before)
    session = before.session.beside(own.path, choose, others, first)
    return _ready(session, first, [], unlike_tokenizers, progress)


class _First:
    """The graphs to make first for a bundle to take the place of `before`."""

    def __init__(self, before: Served) -> None:
        self._before = before
        self.needed: list[GraphKey] = []
        """Those that have to be ready by then."""

    def __call__(self, other: Bundle) -> list[GraphKey]:
        running, _ = self._before.engine.load
        known = [(graph.name, graph.key) for graph in other.manifest.graphs]
        self.needed, order = first_graphs(known, max(1, running))
        return order


def _ready(
    session: Session,
    first: _First,
    shared: list[str],
    unlike_tokenizers: str,
    progress: Progress,
) -> Successor:
    try:
        loaded = load(session, unlike_tokenizers)
        session.prepare(first.needed, progress)
    except BaseException:
        session.close()
        raise
    return Successor(session, loaded, shared)


def close(session: Session) -> None:
    """Its place is taken already: an error changes nothing."""
    try:
        session.close()
    except FoundryError as error:
        note(f"warning: the bundle that was served before: {error}")


def _check_tokenizers(before: Loaded, after: Bundle) -> None:
    old = before.prompts.target, before.prompts.draft
    for model, one, other in zip(("target", "draft"), old, texts(after), strict=True):
        if not one.tokenizer.same_tokens(other.tokenizer):
            raise UsageError(f"the bundle has another tokenizer of the {model} model")
