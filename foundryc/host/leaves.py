"""Ways out of a tensor that no dispatch mode sees, and those of threads that it does not see."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch

from foundryc.host.refuse import NotRecordable, refusal
from foundryrt.errors import UsageError

_UNSEEN = ("numpy", "tolist", "__array__", "__dlpack__", "data_ptr")
"""Methods that hand out a tensor's memory behind the dispatcher's back."""
_VALUES = ("item", "__float__", "__int__", "__bool__", "__index__", "__complex__")
"""Methods that make a number of a tensor; the dispatcher tells a thread's own."""

_one_at_a_time = threading.Lock()


class Leaves:
    """Refuses what takes a tensor's value out of a graph while that is recorded.

    Another thread's calls are on no tape, so while one records, no thread may read a value: the
    rule that CUDA has for its captures by default. Methods of torch.Tensor stand in for it, since
    a function mode would see one thread alone and turn fused layers off.
    """

    def __init__(self, inside: Callable[[], bool]) -> None:
        self._inside = inside
        self._owner = threading.get_ident()
        self._refused: NotRecordable | None = None

    @contextmanager
    def refused(self) -> Iterator[None]:
        """Refuse in the body; what was refused in another thread is raised after it."""
        if not _one_at_a_time.acquire(blocking=False):
            raise UsageError("a thread records a graph already; record one after another")
        own = {name: torch.Tensor.__dict__.get(name) for name in (*_UNSEEN, *_VALUES)}
        try:
            for name in own:
                setattr(torch.Tensor, name, self._guarded(name, getattr(torch.Tensor, name)))
            yield
        finally:
            for name, method in own.items():
                if method is None:
                    delattr(torch.Tensor, name)
                else:
                    setattr(torch.Tensor, name, method)
            _one_at_a_time.release()
        if self._refused is not None:
            raise self._refused

    def _guarded(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def guarded(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._owner:
                self._refused = refusal(
                    f"Tensor.{name}", "reads a tensor in another thread than the graph's",
                    "do it before or after the graph",
                )  # fmt: skip
                raise self._refused
            if name in _UNSEEN and not self._inside():
                raise refusal(
                    f"Tensor.{name}", "takes a tensor out of the graph", "do it afterwards"
                )
            return method(tensor, *args, **kwargs)

        return guarded
