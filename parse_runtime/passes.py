"""The passes that become graphs: prefill[len], decode[batch], verify[len, cuts]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from foundryc.weights import Piece, materialize
from parse_runtime.layout import padded
from parse_runtime.models.config import ModelConfig
from parse_runtime.models.decoder import Cache, Rows, forward, logits
from parse_runtime.shapes import Shapes
from parse_runtime.weights.parameters import Parameter

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Register(Protocol):
    """`Recorder.register`: moves a tensor into the arena and returns the one there."""

    def __call__(
        self, name: str, tensor: Tensor, *, role: str, pieces: list[Piece] | None = None
    ) -> Tensor: ...


def load_parameters(
    name: str, parameters: list[Parameter], dtype: str, register: Register
) -> dict[str, Tensor]:
    """Read the weights and register them as `<name>.<parameter>` in `dtype`."""
    loaded = {}
    for parameter in parameters:
        values = torch.from_numpy(materialize(parameter.pieces, parameter.shape, dtype))
        tensor = values.view(DTYPES[dtype])
        loaded[parameter.name] = register(
            f"{name}.{parameter.name}", tensor, role="weight", pieces=parameter.pieces
        )
    return loaded


@dataclass
class Passes:
    """One model with its own cache and inputs, registered under `name`."""

    name: str
    config: ModelConfig
    parameters: dict[str, Tensor]
    shapes: Shapes
    register: Register
    judge_tokens: tuple[int, int] = (0, 0)
    """Ids of the yes and no tokens; used by `verify` alone."""
    compiled: Callable[[Any], Any] = lambda function: function
    """`Recorder.compiled`."""
    _inputs: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._scores = self.compiled(self._compute)
        c, s = self.config, self.shapes
        dtype = self.parameters["embed"].dtype
        values = torch.zeros(c.layers, 2, c.kv_heads, s.slots, s.rows, c.head_dim, dtype=dtype)
        self.cache = Cache(self._register("cache", values, "state"))
        frequencies = torch.tensor(c.inverse_frequencies(), dtype=torch.float32)
        self._frequencies = self._register("inverse_frequencies", frequencies, "constant")
        self._slot = self._register("slot", torch.zeros(1, dtype=torch.int64), "input")
        self._slots = self._register("slots", torch.arange(s.slots), "constant")
        for length in s.prefill:
            self._add_input(f"prefill.{length}", length, 1)
        for batch in range(1, s.slots + 1):
            self._add_input(f"decode.{batch}", batch, 0)
        for length, cuts in s.verify:
            self._add_input(f"verify.{length}x{cuts}", length, cuts)
        if s.verify:
            tokens = torch.tensor(self.judge_tokens, dtype=torch.int64)
            self._judge = self._register("judge_tokens", tokens, "constant")

    def _register(self, name: str, tensor: Tensor, role: str) -> Tensor:
        return self.register(f"{self.name}.{name}", tensor, role=role)

    def _add_input(self, name: str, length: int, wanted: int) -> None:
        plan = torch.from_numpy(padded(length, self.shapes.max_len))
        self._inputs[name] = self._register(f"{name}.plan", plan, "input")
        if wanted:
            index = torch.zeros(wanted, dtype=torch.int64)
            self._inputs[f"{name}.wanted"] = self._register(f"{name}.wanted", index, "input")

    def prefill(self, length: int) -> dict[str, Tensor]:
        """Outputs `token` int64 [1] (greedy) and `logits` [1, vocab] at the wanted row."""
        name = f"prefill.{length}"
        return _predict(self._logits(name, self.shapes.max_len + 1))

    def decode(self, batch: int) -> dict[str, Tensor]:
        """One token of each of slots 0 to batch - 1: `token` [batch], `logits` [batch, vocab]."""
        plan, slots = self._inputs[f"decode.{batch}"], self._slots[:batch]
        return _predict(self._scores(plan, slots, None, self.shapes.max_len + 1, True))

    def verify(self, length: int, cuts: int) -> dict[str, Tensor]:
        """`verdicts` float32 [cuts], P(yes) / (P(yes) + P(no)), and `logits` [cuts, vocab]."""
        scores = self._logits(f"verify.{length}x{cuts}", self.shapes.rows)
        chosen = scores.index_select(1, self._judge)
        return {"verdicts": chosen.softmax(-1)[:, 0].contiguous(), "logits": scores}

    def _logits(self, name: str, keys: int) -> Tensor:
        plan, wanted = self._inputs[name], self._inputs[f"{name}.wanted"]
        scores: Tensor = self._scores(plan, self._slot, wanted, keys, False)
        return scores

    def _compute(
        self, plan: Tensor, slots: Tensor, wanted: Tensor | None, keys: int, batched: bool
    ) -> Tensor:
        """Logits of the wanted rows of a pass, or of all."""
        hidden = forward(
            self.parameters, self.config, self._frequencies, Rows.of(plan), self.cache, slots,
            keys, batched,
        )  # fmt: skip
        if wanted is not None:
            hidden = hidden.index_select(0, wanted)
        return logits(self.parameters, hidden)

    def graphs(self) -> list[tuple[str, dict[str, int], Any]]:
        """Every pass as (graph name, key, function that computes its outputs)."""
        s = self.shapes
        found: list[tuple[str, dict[str, int], Any]] = []
        for length in s.prefill:
            found.append(("prefill", {"len": length}, lambda n=length: self.prefill(n)))
        for batch in range(1, s.slots + 1):
            found.append(("decode", {"batch": batch}, lambda b=batch: self.decode(b)))
        for length, cuts in s.verify:
            key = {"len": length, "cuts": cuts}
            found.append(("verify", key, lambda n=length, k=cuts: self.verify(n, k)))
        return [(f"{self.name}.{name}", key, run) for name, key, run in found]


def _predict(scores: Tensor) -> dict[str, Tensor]:
    return {"token": scores.argmax(-1), "logits": scores}
