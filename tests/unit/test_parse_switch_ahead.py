"""Other models in the caches of ones whose steps are in flight: the answers of one model alone."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("starlette", reason="pip install 'foundry-graphs[serve]'")

from parse_runtime.engine.request import Request
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.engine.sequence import Decode, Extend
from parse_runtime.graphs.decoder import GraphDecoder
from parse_runtime.graphs.loading import open_models
from parse_runtime.serve.switching import _models
from tests.unit.parse_device import Device
from tests.unit.parse_fakes import Heard, request
from tests.unit.test_parse_ahead import alone, decoded, device, requests


@dataclass(frozen=True)
class Kind:
    """Of a bundle."""

    decode: tuple[int, ...] = ()
    """Batches of its decode passes, 1, 2 and 3 by default,"""
    run_ahead: bool = True
    """whether these run ahead,"""
    mixed: tuple[int, ...] = ()
    """and those that go beside prompts."""

    def device(self, **options: Any) -> Device:
        mixed = self.mixed if self.run_ahead else ()
        return device(decode=self.decode, run_ahead=self.run_ahead, mixed=mixed, **options)


kinds = st.builds(
    Kind, st.sampled_from([(), (1,), (1, 3)]), st.booleans(), st.sampled_from([(), (1,), (2, 3)])
)


class Switched:
    """A scheduler whose models are replaced as a server's are."""

    def __init__(self, kind: Kind) -> None:
        self.used = kind.device()
        self.models = open_models(self.used)
        self.scheduler = Scheduler(*self.models)

    def switch(self, kind: Kind, late: int) -> None:
        """All but the largest batches become ready later, by `late` at different times."""

        def asked(name: str, size: int) -> int:
            needed = name.endswith(".decode") and size == max(kind.decode, default=3)
            return 0 if needed else hash((late, name, size)) % (late + 1)

        after = kind.device(before=self.used, late=asked)
        models = open_models(after)
        served = SimpleNamespace(session=self.used, loaded=_loaded(self.models))
        self.scheduler.replace(*_models(served, _loaded(models)))  # type: ignore[arg-type]
        assert not self.used.queued
        self.used, self.models = after, models
        after.waited_for = NeverInVain(self.scheduler)


class NeverInVain(list[tuple[str, int]]):
    """Passes that wait for their graphs, while no answer has a step to take."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def append(self, one: tuple[str, int]) -> None:
        asked = [running.call for running in self._scheduler._running.values()]
        assert not any(isinstance(call, Decode | Extend) for call in asked)
        super().append(one)


def _loaded(models: tuple[GraphDecoder, GraphDecoder]) -> SimpleNamespace:
    return SimpleNamespace(target=models[0], draft=models[1])


@given(
    kinds, st.lists(st.tuples(st.integers(1, 25), kinds), min_size=1, max_size=4),
    st.lists(st.tuples(requests, st.integers(0, 12)), min_size=1, max_size=7), st.integers(0, 9),
)  # fmt: skip
def test_answers_are_those_of_one_model(
    first: Kind, switches: list[tuple[int, Kind]], arrivals: list[tuple[Request, int]], late: int
) -> None:
    """Each switch comes so many steps after the one before.

    No pass waits for its graph while an answer has a step to take.
    """
    made, left, since = Switched(first), list(switches), 0

    def step() -> bool:
        nonlocal since
        going, since = made.scheduler.step(), since + 1
        if left and since >= left[0][0]:
            made.switch(left.pop(0)[1], late)
            since = 0
        return going

    heard: list[Heard] = []
    for chosen, pause in arrivals:
        heard.append(Heard())
        made.scheduler.submit(chosen, heard[-1])
        for _ in range(pause):
            step()
    while step():
        pass
    for (chosen, _), got in zip(arrivals, heard, strict=True):
        expected = alone(chosen)
        assert got.error is None and (got.said, got.reason) == (expected.said, expected.reason)
        assert got.statistics.verdicts == expected.statistics.verdicts


def test_a_graph_that_does_not_come_is_waited_for_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A launch makes it itself, or says why it cannot be made."""
    never = device(late=lambda name, size: 10**9 if size in (16, 64) else 0)
    scheduler, heard = Scheduler(*open_models(never)), [Heard(), Heard()]
    asked = request(40, [3], max_rounds=0), request(2, [4] * 9, max_rounds=0)
    scheduler.submit(asked[0], heard[0])
    scheduler.step()
    scheduler.submit(asked[1], heard[1])
    for _ in range(5):
        scheduler.step()
    assert not heard[1].said and not never.waited_for
    monkeypatch.setattr("parse_runtime.engine.putting_off._PATIENCE", 0)
    for _ in range(3):
        scheduler.step()
    assert heard[1].said == alone(asked[1]).said and not heard[0].done
    assert never.waited_for == [("target.prefill", 16)]


def test_what_was_in_flight_is_void() -> None:
    """The step after the last is begun anew, and its row filled with the same."""
    made = Switched(Kind())
    made.scheduler.submit(chosen := request(12, [3, 4], max_rounds=0), heard := Heard())
    while len(heard.said) < 5:
        made.scheduler.step()
    assert made.models[0]._flight is not None
    made.switch(Kind(), 0)
    assert made.models[0]._flight is None
    while not heard.done:
        rows = made.models[0].row_tokens[0].copy()
        made.scheduler.step()
    assert heard.said == alone(chosen).said
    held = [*chosen.prompt, *heard.said]
    # Before the last step, which computes the row before the last token.
    assert rows[: len(held) - 2].tolist() == held[:-2]


def test_a_larger_graph_stands_in_until_the_fitting_one_is_ready() -> None:
    """Also for steps that run ahead, which go on with one graph otherwise."""
    used = device(4, late=lambda name, size: 3 if (name, size) == ("target.decode", 1) else 0)
    target, _ = open_models(used)
    [sequence] = decoded(target, [0], 9, True)
    assert used.sizes == [4, 2, 2, 2, *[1] * 7]
    assert [sequence] == decoded(open_models(device(4))[0], [0], 9, False)
    # Where none that would do is ready, it is waited for.
    used = device(4, late=lambda name, size: 100 * (name == "target.decode"))
    assert [sequence] == decoded(open_models(used)[0], [0], 9, True)
    assert set(used.waited_for) == {("target.decode", 1)}
