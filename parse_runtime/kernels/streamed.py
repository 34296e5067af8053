"""Which products are bound by their weights' memory, and which of them may hold the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

from parse_runtime.kernels.rows import STREAMED_ROWS

HELD_ROWS = 8
"""Up to so many rows a step, programs may hold their part of a small matrix (`cuda/held.py`)."""
_MOST: ContextVar[int] = ContextVar("most rows of a step", default=1)
_SHARED: ContextVar[bool] = ContextVar("ranks share the model", default=False)


def streams(x: Tensor) -> bool:
    """Whether products of these rows run by the weight-streaming kernels."""
    return x.is_cuda and x.shape[0] <= STREAMED_ROWS


def holds(x: Tensor) -> bool:
    """Whether they may run by the kernels that hold the weight.

    All passes of a model agree on that, or a row's bits would depend on how many rows there are.
    """
    return streams(x) and _MOST.get() <= HELD_ROWS


def shared() -> bool:
    """Whether ranks share the model: each waits for the others, and its memory has nothing to do.

    Programs then hold the first part of any matrix; a row's bits do not depend on it.
    """
    return _SHARED.get()


@contextmanager
def of_steps(rows: int, ranks: bool = False) -> Iterator[None]:
    """Within it, kernels are those of a model whose decode and extend passes have up to `rows`.

    `ranks`: and which several ranks share.
    """
    tokens = _MOST.set(rows), _SHARED.set(ranks)
    try:
        yield
    finally:
        _MOST.reset(tokens[0])
        _SHARED.reset(tokens[1])
