"""What rank 0 does, followers do: the same calls in the same order, through a ring of their own."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundryrt.bundle.schema import Tensor, WeightFile, Weights
from foundryrt.errors import RankLost, UsageError
from foundryrt.native.ring import MOST_BYTES, Ring, ring_file
from foundryrt.ranks.follow import _Follower
from foundryrt.ranks.leader import Leader
from foundryrt.weight_files import FileState

FORMS: dict[str, tuple[str, tuple[int, ...]]] = {
    "ranks": ("int32", (4,)),
    "scalar": ("float64", ()),
    "empty": ("float32", (0, 3)),
    "flags": ("bool", (7,)),
    "matrix": ("complex64", (3, 5)),
    "large": ("uint8", (2 * MOST_BYTES + 1,)),
    "whole": ("float32", (MOST_BYTES // 4,)),
}
"""A word more than a record has room for, and as many, among them."""
NAMES = list(FORMS)[1:]


def tensor(name: str) -> Tensor:
    dtype, shape = FORMS[name]
    return Tensor(
        name=name, region=0, offset=0, dtype=dtype, shape=shape, strides=(1,) * len(shape),
        role="state",
    )  # fmt: skip


WEIGHTS = Path(__file__)
MANIFEST: Any = SimpleNamespace(
    tensors=[tensor(name) for name in FORMS],
    ranks=SimpleNamespace(world=3, words=0),
    weights=Weights(files=(WeightFile("w", WEIGHTS.stat().st_size, str(WEIGHTS)),)),
)


class Backend:
    """Notes what is asked of it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def tensor(self, tensor: Tensor) -> np.ndarray:
        dtype, shape = FORMS[tensor.name]
        return np.zeros(shape, dtype)

    def readback(self, tensor: Tensor) -> SimpleNamespace:
        return SimpleNamespace(overlaps=True, start=lambda: None, wait=lambda: [0] * 4)

    def launch(self, graph: int) -> None:
        self.calls.append(("launch", graph))

    def write(self, tensor: Tensor, values: np.ndarray) -> None:
        self.calls.append(("write", tensor.name, values.dtype, values.shape, values.tobytes()))

    def seed(self, seed: int) -> None:
        self.calls.append(("seed", seed % (1 << 64)))

    def load_weights(self, check: bool, states: list[FileState] | None) -> None:
        self.calls.append(("load", check, states))

    def abandon(self, rank: int) -> None:
        self.calls.append(("abandon", rank))


class Followers:
    """Those that are there, as far as a leader asks."""

    lost: Exception | None = None

    def __init__(self) -> None:
        self.on_loss: list[Any] = []
        self.told: list[tuple[int, str]] = []

    def check(self) -> None:
        if self.lost:
            raise self.lost

    def lose(self, rank: int, why: str) -> None:
        self.told.append((rank, why))


CALLS = st.lists(
    st.tuples(st.just("launch"), st.integers(0, 2**32 - 1))
    | st.tuples(st.just("write"), st.sampled_from(NAMES), st.integers(0, 2**32))
    | st.tuples(st.just("seed"), st.integers(-(2**63), 2**64 - 1))
    | st.tuples(st.just("load"), st.booleans()),
    max_size=12,
)


def values(name: str, seed: int) -> np.ndarray:
    """Every other element of an array, so that its bytes do not lie together."""
    dtype, shape = FORMS[name]
    wide = np.random.default_rng(seed).integers(0, 2, (*shape[:-1], 2 * (shape or (1,))[-1]))
    return wide[..., ::2].astype(dtype)[...].reshape(shape) if shape else np.array(seed, dtype)


@settings(deadline=None, max_examples=40)
@given(calls=CALLS)
def test_followers_do_the_same_in_the_same_order(calls: list[tuple[Any, ...]]) -> None:
    file, own, others = ring_file(), Backend(), [Backend(), Backend()]
    rings = [Ring(os.dup(file), 2) for _ in range(2)]
    leader: Any = Leader(own, SimpleNamespace(manifest=MANIFEST), Followers(), Ring(file, 2))  # type: ignore[arg-type]
    line: Any = None
    threads = [
        threading.Thread(target=_Follower(backend, MANIFEST, line).run, args=(ring, reader))  # type: ignore[arg-type]
        for reader, (backend, ring) in enumerate(zip(others, rings, strict=True))
    ]
    for thread in threads:
        thread.start()
    for name, *arguments in calls:
        if name == "launch":
            leader.launch(*arguments)
        elif name == "write":
            leader.write(tensor(arguments[0]), values(*arguments))
        elif name == "seed":
            leader.seed(*arguments)
        else:
            leader.load_weights(*arguments)
    leader._ring.put(6)
    for thread in threads:
        thread.join()
    wanted = [call for call in own.calls if call[:2] != ("write", "empty")]
    for backend in others:
        assert backend.calls == wanted
    assert len(own.calls) == len(calls)


def test_what_does_not_fit_is_told_to_nobody() -> None:
    own, followers = Backend(), Followers()
    ring = Ring(ring_file(), 2)
    leader: Any = Leader(own, SimpleNamespace(manifest=MANIFEST), followers, ring)  # type: ignore[arg-type]
    for wrong in (np.zeros(3, np.float64), np.float32(1)):
        with pytest.raises(UsageError, match="scalar is float64"):
            leader.write(tensor("scalar"), wrong)
    assert ring.take(0, 0) is None and not own.calls and not followers.told


def test_a_loss_ends_the_waiting_of_both_sides() -> None:
    own, followers = Backend(), Followers()
    leader: Any = Leader(own, SimpleNamespace(manifest=MANIFEST), followers, Ring(ring_file(), 2))  # type: ignore[arg-type]

    def lose() -> None:
        followers.lost = RankLost("rank 2 is gone")
        for call in followers.on_loss:
            call(2)

    losing = threading.Timer(0.2, lose)
    losing.start()
    with pytest.raises(RankLost, match="rank 2 is gone"):
        while True:  # nobody reads: the ring becomes full
            leader.write(tensor("large"), values("large", 1))
    losing.join()
    assert own.calls[-1] == ("abandon", 2)
