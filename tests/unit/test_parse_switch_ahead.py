"""Other models in the caches of ones whose steps are in flight: the answers of one model alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("starlette", reason="pip install 'foundry-graphs[serve]'")

from parse_runtime.engine.request import Request
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.graphs.decoder import GraphDecoder
from parse_runtime.graphs.loading import open_models
from parse_runtime.serve.switching import _models
from tests.unit.parse_fakes import Heard, request
from tests.unit.test_parse_ahead import alone, decoded, device, requests

Kind = tuple[tuple[int, ...], bool]
"""Batches that it has decode passes for, and whether they run ahead."""
kinds = st.tuples(st.sampled_from([(), (1,), (1, 3)]), st.booleans())


class Switched:
    """A scheduler whose models are replaced as a server's are."""

    def __init__(self, kind: Kind) -> None:
        self.used = device(decode=kind[0], run_ahead=kind[1])
        self.models = open_models(self.used)
        self.scheduler = Scheduler(*self.models)

    def switch(self, kind: Kind, late: int) -> None:
        """Smaller batches than the largest become ready later, by `late` at different times."""

        def asked(name: str, size: int) -> int:
            needed = not name.endswith(".decode") or size == max(kind[0], default=3)
            return 0 if needed else hash((late, name, size)) % (late + 1)

        after = device(decode=kind[0], run_ahead=kind[1], before=self.used, late=asked)
        models = open_models(after)
        served = SimpleNamespace(session=self.used, loaded=_loaded(self.models))
        self.scheduler.replace(*_models(served, _loaded(models)))  # type: ignore[arg-type]
        assert not self.used.queued and not self.used.waited_for
        self.used, self.models = after, models


def _loaded(models: tuple[GraphDecoder, GraphDecoder]) -> SimpleNamespace:
    return SimpleNamespace(target=models[0], draft=models[1])


@given(
    kinds, st.lists(st.tuples(st.integers(1, 25), kinds), min_size=1, max_size=4),
    st.lists(st.tuples(requests, st.integers(0, 12)), min_size=1, max_size=7), st.integers(0, 9),
)  # fmt: skip
def test_answers_are_those_of_one_model(
    first: Kind, switches: list[tuple[int, Kind]], arrivals: list[tuple[Request, int]], late: int
) -> None:
    """Each switch comes so many steps after the one before; no pass waits for its graph."""
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
    assert not made.used.waited_for
    for (chosen, _), got in zip(arrivals, heard, strict=True):
        expected = alone(chosen)
        assert got.error is None and (got.said, got.reason) == (expected.said, expected.reason)
        assert got.statistics.verdicts == expected.statistics.verdicts


def test_what_was_in_flight_is_void() -> None:
    """The step after the last is begun anew, and its row filled with the same."""
    made = Switched(((), True))
    made.scheduler.submit(chosen := request(12, [3, 4], max_rounds=0), heard := Heard())
    while len(heard.said) < 5:
        made.scheduler.step()
    assert made.models[0]._flight is not None
    made.switch(((), True), 0)
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
