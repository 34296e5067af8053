"""Passes run directly, behind a session's methods: the reference for bundles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundryc.weights import WeightSlice
from parse_runtime.capture.passes import Passes, Run


class EagerSession:
    """Give `register` to the passes, then `add` them; on a GPU with `device` "cuda".

    `grow` is that of `Session.open`.
    """

    def __init__(
        self, settings: Mapping[str, Any] | None = None, device: str = "cpu",
        grow: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        self.settings = dict(settings or {})
        self.rows: dict[str, int] = {}
        self._device, self._grow = device, dict(grow or {})
        self.tensors: dict[str, Tensor] = {}
        self._passes: dict[tuple[str, tuple[tuple[str, int | str], ...]], EagerGraph] = {}

    def register(
        self, name: str, tensor: Tensor, role: str, slices: Sequence[WeightSlice] | None = None,
        grows: int | None = None,
    ) -> Tensor:  # fmt: skip
        """As a recorder does, but in torch's own memory."""
        if grows is not None:
            self.rows[name] = self._grow.get(name, tensor.shape[0])
            more = self.rows[name] - tensor.shape[0]
            tensor = torch.cat((tensor, tensor.new_zeros(more, *tensor.shape[1:])))
        self.tensors[name] = tensor.to(self._device)
        return self.tensors[name]

    def add(self, passes: Passes) -> None:
        """Offer the graphs of one model."""
        for signature, run in passes.graphs():
            self._passes[signature.graph, tuple(sorted(signature.key.items()))] = EagerGraph(run)

    @property
    def graphs(self) -> list[tuple[str, Mapping[str, int | str]]]:
        return [(name, dict(key)) for name, key in self._passes]

    def write(self, name: str, values: NDArray[Any]) -> None:
        self.tensors[name].copy_(torch.from_numpy(np.ascontiguousarray(values)))

    def graph(self, name: str, **key: int | str) -> EagerGraph:
        return self._passes[name, tuple(sorted(key.items()))]


class EagerGraph:
    """One pass; outputs are those of its last launch."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._outputs: dict[str, Tensor] = {}

    def ready(self, soon: bool = False) -> bool:
        return True

    def launch(self) -> None:
        with torch.inference_mode():
            self._outputs = self._run()

    def readback(self, name: str) -> EagerReadback:
        return EagerReadback(lambda: self._outputs[name])

    def read(self, name: str) -> NDArray[Any]:
        output = self._outputs[name]
        if output.dtype == torch.bfloat16:
            output = output.view(torch.uint16)  # as a session gives what numpy lacks
        array: NDArray[Any] = output.cpu().numpy().copy()
        return array


class EagerReadback:
    """As `foundryrt.protocols.Readback`, of the tensor that `output` gives."""

    def __init__(self, output: Callable[[], Tensor]) -> None:
        self._output, like = output, output()
        self._copy = torch.empty_like(like, device="cpu", pin_memory=like.is_cuda)
        self._event: Any = None
        if like.is_cuda:
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]

    @property
    def overlaps(self) -> bool:
        return self._event is not None

    def start(self) -> None:
        self._copy.copy_(self._output(), non_blocking=True)
        if self._event is not None:
            self._event.record()

    def wait(self) -> NDArray[Any]:
        if self._event is not None:
            self._event.synchronize()
        array: NDArray[Any] = self._copy.numpy()
        return array
