"""The exchange between ranks on the CPU: as threads with slabs in one tensor, and alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foundryc.ranks import Ranks
from foundryrt.bundle.ranks import BOUND, MISSING
from foundryrt.errors import FoundryError, UsageError
from foundryrt.host import exchange
from foundryrt.host.operators import operator
from foundryrt.native import exchange_core
from tests.host.test_host_limits import call

DTYPES = (torch.float32, torch.bfloat16)
WORLDS = (2, 3, 4, 8)


def together(world: int, capacity: int = 256, bound: int = 60_000) -> list[Ranks]:
    """Ranks of one process over one slab tensor."""
    slabs = torch.zeros(world * -(-2 * world * capacity // 4096) * 4096, dtype=torch.uint8)
    return [
        Ranks(world, torch.tensor([rank, world, 0, bound], dtype=torch.int32), slabs, capacity)
        for rank in range(world)
    ]


def run(ranks: Sequence[Ranks], body: Callable[[int, Ranks], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(ranks)) as threads:
        return list(threads.map(body, range(len(ranks)), ranks))


def values(rank: int, turn: int, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Other numbers for every rank and turn, many zeros of either sign among them."""
    made = torch.randn(shape, generator=torch.Generator().manual_seed(100 * turn + rank))
    made[made.abs() < 0.5] = 0.0
    made[(made > 0.5) & (made < 0.6)] = -0.0
    return made.to(dtype)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=10, deadline=None)
@given(
    shapes=st.lists(
        st.lists(st.integers(0, 9), max_size=3) | st.tuples(st.integers(60, 700)),
        min_size=1, max_size=8,
    )
)  # fmt: skip
def test_all_ranks_get_the_same(
    world: int, dtype: torch.dtype, shapes: list[Sequence[int]]
) -> None:
    def body(rank: int, ranks: Ranks) -> list[torch.Tensor]:
        return [
            ranks.all_gather(values(rank, turn, shape, dtype)) for turn, shape in enumerate(shapes)
        ]

    members = together(world)
    results = run(members, body)
    for turn, shape in enumerate(shapes):
        wanted = torch.stack([values(rank, turn, shape, dtype) for rank in range(world)])
        for got in results:
            assert got[turn].shape == (world, *shape)
            assert torch.equal(got[turn], wanted)
            bits = got[turn].contiguous().view(torch.int16 if dtype == DTYPES[1] else torch.int32)
            first = results[0][turn].contiguous().view(bits.dtype)
            assert torch.equal(bits, first)
    assert not members[0].slabs.any()
    assert not any(int(ranks.words[MISSING]) for ranks in members)


@pytest.mark.parametrize("world", WORLDS)
def test_a_rank_that_is_behind_gets_what_was_sent(world: int) -> None:
    """One is late again and again, so that others write while it still reads."""

    def body(rank: int, ranks: Ranks) -> torch.Tensor:
        total = torch.zeros(130)
        for turn in range(200):
            if turn % world == rank and turn % 10 == 0:
                time.sleep(0.001)
            total = ranks.all_gather(total + (rank + 1) * (turn % 7)).sum(0) / world
        return total

    results = run(together(world, capacity=512), body)
    total = torch.zeros(130)
    for turn in range(200):
        total = torch.stack([total + (r + 1) * (turn % 7) for r in range(world)]).sum(0) / world
    for got in results:
        assert torch.equal(got, total)


def test_a_sum_from_zero_is_not_changed_by_minus_zero() -> None:
    got = run(together(2), lambda rank, ranks: ranks.all_gather(torch.zeros(3)))
    assert torch.equal(got[0].view(torch.int32), torch.full((2, 3), -(1 << 31), dtype=torch.int32))
    total = torch.zeros(3)
    for part in got[0]:
        total = total + part
    assert torch.equal(total.view(torch.int32), torch.zeros(3, dtype=torch.int32))


def test_alone_the_others_are_zeros() -> None:
    for rank in range(3):
        words = torch.tensor([rank, 1, 0, 0], dtype=torch.int32)
        ranks = Ranks(3, words, torch.zeros(3 * 4096, dtype=torch.uint8), 256)
        x = torch.arange(1.0, 200.0)
        got = ranks.all_gather(x)
        wanted = torch.zeros(3, 199)
        wanted[rank] = x
        assert torch.equal(got, wanted)
        assert not ranks.slabs.any()


@pytest.mark.parametrize("missing", range(3))
def test_a_missing_rank_ends_the_wait(missing: int) -> None:
    members = together(3, bound=50)

    def body(rank: int, ranks: Ranks) -> torch.Tensor:
        return ranks.all_gather(torch.ones(5))

    there = [ranks for rank, ranks in enumerate(members) if rank != missing]
    for ranks, got in zip(there, run(there, body), strict=True):
        assert int(ranks.words[MISSING]) == 1 + missing
        assert not got.any()
        # Now no exchange waits: this one would for longer than the test may take.
        ranks.words[BOUND] = 2**31 - 1
        assert not ranks.all_gather(torch.ones(5)).any()


def test_with_a_missing_rank_nothing_is_given() -> None:
    words = torch.tensor([0, 1, 2, 0], dtype=torch.int32)
    ranks = Ranks(2, words, torch.zeros(2 * 4096, dtype=torch.uint8), 256)
    assert not ranks.all_gather(torch.ones(5)).any()
    assert words.tolist() == [0, 1, 2, 0]


def test_another_thread_ends_the_wait() -> None:
    ranks = together(2, bound=2**31 - 1)[0]
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ranks.all_gather, torch.ones(5))
        threading.Event().wait(0.05)
        assert not waiting.done()
        ranks.words[MISSING] = 2
        assert not waiting.result(timeout=30).any()


@pytest.mark.parametrize("world", WORLDS)
def test_settled_ranks_begin_with_the_first_buffer(world: int) -> None:
    for many in range(4):
        members = together(world)

        def body(rank: int, ranks: Ranks, many: int = many) -> int:
            ranks.begin()
            for _ in range(many):
                ranks.all_gather(torch.ones(3))
            ranks.settle()
            return ranks.turn()

        assert run(members, body) == [0] * world


def arguments() -> dict[str, Any]:
    return {
        "x": torch.ones(4, 3), "words": torch.tensor([1, 1, 0, 0], dtype=torch.int32),
        "slabs": torch.zeros(2 * 4096, dtype=torch.uint8), "turn": 0, "world": 2, "capacity": 256,
        "out": torch.empty(2, 4, 3),
    }  # fmt: skip


WRONG: dict[str, tuple[Any, ...]] = {
    "x": (torch.ones(4, 3, dtype=torch.float64), torch.ones(3, 4).t(), torch.ones(4, 2)),
    "words": (
        torch.ones(4), torch.ones(5, dtype=torch.int32), torch.ones(8, dtype=torch.int32)[::2],
    ),
    "slabs": (
        torch.zeros(8192, dtype=torch.int8), torch.zeros(2, 4096, dtype=torch.uint8),
        torch.zeros(8193, dtype=torch.uint8), torch.zeros(8193, dtype=torch.uint8)[1:],
        torch.zeros(1024, dtype=torch.uint8), torch.zeros(0, dtype=torch.uint8),
        torch.zeros(2 * 4096 + 512, dtype=torch.uint8),
    ),
    "turn": (-1, 2, 1 << 40, 0.0), "world": (1, 0, -2, 4, 65, 1 << 40, 2.0),
    "capacity": (0, -256, 255, 2048, 1 << 60, 256.0, None),
    "out": (torch.empty(3, 4, 3), torch.empty(2, 4, 3, dtype=torch.bfloat16), torch.empty(2, 12)),
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in WRONG.items() for v in vs])
def test_arguments_that_do_not_fit_are_refused(name: str, value: Any) -> None:
    fits = exchange.CHECKS["foundry::all_gather"]
    assert fits(arguments())
    assert not fits(arguments() | {name: value})
    with pytest.raises((FoundryError, RuntimeError)):
        operator("foundry::all_gather")(**arguments() | {name: value})


ARGUMENTS: dict[str, tuple[str, int, tuple[int, ...], tuple[int, ...]]] = {
    "x": ("float32", 0, (8,), (1,)), "words": ("int32", 1024, (4,), (1,)),
    "slabs": ("uint8", 2048, (4096,), (1,)), "out": ("float32", 7168, (2, 8), (8, 1)),
}  # fmt: skip
"""Of a call in an arena; at 1024 are the integers 128, 0, 129, 0: no rank of two."""


@pytest.mark.parametrize(
    ("name", "address"), [("words", 2048), ("words", 7168), ("out", 6140), ("slabs", 4096)]
)
def test_a_bundle_cannot_have_it_write_twice(name: str, address: int) -> None:
    def bound(**given: Any) -> None:
        a = ARGUMENTS | given
        call("foundry::all_gather", a["x"], a["words"], a["slabs"], 0, 2, 256, out=a["out"])

    with pytest.raises(FoundryError, match="name no rank of 2"):
        bound()
    dtype, _, sizes, strides = ARGUMENTS[name]
    with pytest.raises(FoundryError, match="tensors that it writes overlap"):
        bound(**{name: (dtype, address, sizes, strides)})


@pytest.mark.parametrize("words", [(2, 1, 0, 0), (-1, 1, 0, 0), (0, 0, 0, 0), (0, 3, 0, 0)])
def test_words_that_name_no_rank_are_refused(words: tuple[int, ...]) -> None:
    given = arguments() | {"words": torch.tensor(words, dtype=torch.int32)}
    with pytest.raises(FoundryError, match="name no rank of 2"):
        operator("foundry::all_gather")(**given)


@pytest.mark.parametrize("x", [torch.ones(3, dtype=torch.float16), torch.ones(4, 3).t()])
def test_other_tensors_are_not_sent(x: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="contiguous tensor of float32 or bfloat16"):
        together(2)[0].all_gather(x)


def test_the_core_stays_in_its_place() -> None:
    """What lies around buffers and outputs keeps its bytes."""
    world, capacity, stride = 2, 256, 4096
    slabs = torch.zeros(world * stride, dtype=torch.uint8)
    slabs[capacity * world : stride // 2] = 7
    out = torch.full((2 * world * 33,), 5, dtype=torch.bfloat16)
    x = torch.ones(33, dtype=torch.bfloat16)
    words = torch.tensor([0, 1, 0, 0], dtype=torch.int32)
    exchange_core.all_gather(
        exchange_core.Exchange(world, stride, capacity, 16), x.data_ptr(), 33, words.data_ptr(),
        slabs.data_ptr(), 0, out.data_ptr(),
    )  # fmt: skip
    assert bool((slabs[capacity * world : stride // 2] == 7).all())
    assert int(slabs.count_nonzero()) == stride // 2 - capacity * world
    assert out[:33].eq(1).all() and out[33:66].eq(0).all() and out[66:].eq(5).all()
