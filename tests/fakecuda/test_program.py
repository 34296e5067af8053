"""A program around graphs on cuda: which pool and stream each part of it has. No device is used."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from foundryc.cuda import recording
from foundryrt.errors import UsageError


class Arena:
    """Pools by number; `blocks` are those in use, by pool."""

    def __init__(self) -> None:
        self.pool, self.blocks = 0, {0: [(0x900, 1)]}

    def new_pool(self) -> int:
        pool = len(self.blocks)
        self.blocks[pool] = []
        return pool

    def live_blocks(self, pool: int) -> list[tuple[int, int]]:
        return self.blocks[pool]

    def locate(self, tensor: object) -> tuple[int, int] | None:
        return None if tensor == "elsewhere" else (0, 0)


@pytest.fixture
def log(monkeypatch) -> list[str]:
    """What torch is told, in order."""
    told: list[str] = []

    @contextmanager
    def block(name: str):
        told.append(f"{name} begins")
        try:
            yield
        finally:
            told.append(f"{name} ends")

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "synchronize": lambda: None,
        "current_stream": lambda: stream,
        "stream": lambda stream: block("stream"),
        "use_mem_pool": lambda pool: block(f"pool {pool}"),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None, raising=False)
    return told


@pytest.fixture
def recorded(monkeypatch, log):
    made = object.__new__(recording.CudaRecording)
    made.arena, made.tensors, made.graphs, made.initial = Arena(), [], [], {}
    made.stream = SimpleNamespace(wait_stream=lambda other: None)
    made._program, made._pools, made._seen = None, [], set()
    made._remember = lambda address, size: made.initial.update({address: np.ones(size, np.uint8)})

    @contextmanager
    def captured(name, key):
        made._end_warm_up()
        log.append(f"{name} begins")
        yield SimpleNamespace(replay=lambda: log.append(f"{name} runs"))
        log.append(f"{name} ends")
        made.graphs.append(name)

    monkeypatch.setattr(made, "_captured", captured, raising=False)
    return made


def test_each_stretch_has_a_pool_that_no_graph_is_captured_in(recorded, log):
    with recorded.program():
        with recorded.graph("one"):
            pass
        with recorded.graph("two"):
            pass
    stretch = lambda pool, *inside: [  # noqa: E731
        "stream begins", f"pool {pool} begins", *inside, f"pool {pool} ends", "stream ends",
    ]  # fmt: skip
    assert log == [
        *stretch(1), "one begins", "one ends", *stretch(2, "one runs"),
        "two begins", "two ends", *stretch(3, "two runs"),
    ]  # fmt: skip
    # Their memory is not given back before the bundle is written.
    assert recorded._pools == [1, 2, 3]


def test_memory_begins_as_the_first_graph_after_it_was_made_finds_it(recorded):
    blocks = recorded.arena.blocks
    with recorded.program():
        blocks[1] = [(0x100, 1)]
        with recorded.graph("one"):
            pass
        assert set(recorded.initial) == {0x900, 0x100}
        recorded.initial[0x100] = None
        blocks[0].append((0xA00, 1))  # a result of the graph
        blocks[2] = [(0x200, 1)]
        with recorded.graph("two"):
            pass
    # That of the first stretch is not looked at again.
    assert set(recorded.initial) == {0x900, 0x100, 0x200} and recorded.initial[0x100] is None


def test_a_block_that_fails_leaves_the_program_as_it_was(recorded, log):
    with recorded.program():
        with pytest.raises(ZeroDivisionError), recorded.graph("one"):
            raise ZeroDivisionError
        assert log[-2:] == ["stream begins", "pool 2 begins"]
    assert log[-2:] == ["pool 2 ends", "stream ends"] and "one runs" not in log


def test_kept_tensors_are_the_program_s(recorded):
    recorded.keep("x", "here")
    with pytest.raises(UsageError, match="two tensors are registered as 'x'"):
        recorded.keep("x", "here")
    with pytest.raises(UsageError, match="y: is not in the arena; keep tensors that the program"):
        recorded.keep("y", "elsewhere")
