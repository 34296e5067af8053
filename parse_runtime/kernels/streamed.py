"""Which products are bound by their weights' memory, and which of them may hold the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

from parse_runtime.kernels.rows import STREAMED_ROWS

_SHARED: ContextVar[bool] = ContextVar("ranks share the model", default=False)


def streams(x: Tensor) -> bool:
    """Whether products of these rows run by the weight-streaming kernels."""
    return x.is_cuda and x.shape[0] <= STREAMED_ROWS


def holds(x: Tensor) -> bool:
    """Whether programs may hold their part of the weight (`cuda/held.py`): of one row.

    It has the bits that it has among others. Ranks hold the first part of any matrix instead.
    """
    return streams(x) and x.shape[-2] == 1 and not shared()


def shared() -> bool:
    """Whether ranks share the model: each waits for the others, and its memory has nothing to do.

    Programs then hold the first part of any matrix; a row's bits do not depend on it.
    """
    return _SHARED.get()


@contextmanager
def of_ranks(several: bool) -> Iterator[None]:
    """Within it, kernels are those of a model that several ranks share, if so."""
    token = _SHARED.set(several)
    try:
        yield
    finally:
        _SHARED.reset(token)
