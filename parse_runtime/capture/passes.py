"""The passes that become graphs: prefill[len], decode[batch], extend[batch], verify[len, cuts]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from foundryc.weights import WeightSlice, materialize
from parse_runtime.kernels.sample import sample
from parse_runtime.models.acceptance import select
from parse_runtime.models.config import ModelConfig
from parse_runtime.models.decoder import Cache, Rows, decoder_layer, forward, logits
from parse_runtime.models.eagle3 import Head, tapped_layers
from parse_runtime.models.speculation import Speculation
from parse_runtime.signature.plan import padded
from parse_runtime.signature.sizes import Shapes
from parse_runtime.weights.parameters import Parameter

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Register(Protocol):
    """`Recorder.register`: moves a tensor into the arena and returns the one there."""

    def __call__(
        self, name: str, tensor: Tensor, *, role: str, slices: list[WeightSlice] | None = None
    ) -> Tensor: ...


def load_parameters(
    name: str, parameters: list[Parameter], dtype: str, register: Register
) -> dict[str, Tensor]:
    """Read the weights and register them as `<name>.<parameter>` in `dtype`."""
    loaded = {}
    for parameter in parameters:
        kind = parameter.dtype or dtype
        values = torch.from_numpy(materialize(parameter.slices, parameter.shape, kind))
        tensor = values.view(DTYPES.get(kind, values.dtype))
        loaded[parameter.name] = register(
            f"{name}.{parameter.name}", tensor, role="weight", slices=parameter.slices
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
    head: tuple[ModelConfig, dict[str, Tensor]] | None = None
    """An EAGLE-3 head that drafts for the extend passes."""
    _inputs: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # One layer is compiled, not the model: all layers of a pass share its code.
        self._layer = self.compiled(decoder_layer)
        c, s = self.config, self.shapes
        self.cache = self._add_cache("cache", c, s.rows)
        self._frequencies = self._constant("inverse_frequencies", c.inverse_frequencies())
        self._slot = self._register("slot", torch.zeros(1, dtype=torch.int64), "input")
        for length in s.prefill:
            self._add_plan(f"prefill.{length}", length, wanted=1, sampled=1)
        for batch in s.batches:
            self._add_plan(f"decode.{batch}", batch, wanted=0, sampled=batch)
            self._add(f"decode.{batch}.slots", torch.arange(batch))
        for length, cuts in s.verify:
            self._add_plan(f"verify.{length}x{cuts}", length, wanted=cuts, sampled=0)
            self._add(f"verify.{length}x{cuts}.rule", torch.zeros(2, dtype=torch.int64))
            self._add(f"verify.{length}x{cuts}.threshold", torch.zeros(1))
        if s.verify:
            tokens = torch.tensor(self.judge_tokens, dtype=torch.int64)
            self._judge = self._register("judge_tokens", tokens, "constant")
        self._head = self._add_head() if self.head else None
        self._tapped = tapped_layers(c.layers) if self.head else ()
        if s.tree:
            self._add_speculation()

    def _register(self, name: str, tensor: Tensor, role: str) -> Tensor:
        return self.register(f"{self.name}.{name}", tensor, role=role)

    def _add(self, name: str, tensor: Tensor) -> None:
        self._inputs[name] = self._register(name, tensor, "input")

    def _constant(self, name: str, values: list[float]) -> Tensor:
        return self._register(name, torch.tensor(values, dtype=torch.float32), "constant")

    def _add_cache(self, name: str, c: ModelConfig, rows: int) -> Cache:
        dtype = self.parameters["embed"].dtype
        shape = (c.layers, 2, c.kv_heads, self.shapes.slots, rows, c.head_dim)
        return Cache(self._register(name, torch.zeros(shape, dtype=dtype), "state"))

    def _add_plan(self, name: str, length: int, wanted: int, sampled: int) -> None:
        self._add(f"{name}.plan", torch.from_numpy(padded(length, self.shapes.max_len)))
        if wanted:
            self._add(f"{name}.wanted", torch.zeros(wanted, dtype=torch.int64))
        if sampled:
            self._add_sampling(name, sampled)
        if self.head and wanted and sampled:
            self._add(f"{name}.next", torch.full((1,), -1))

    def _add_sampling(self, name: str, count: int) -> None:
        # Temperatures, then top-p.
        self._add(f"{name}.sampling", torch.tensor([[0.0], [1.0]]).repeat(1, count))
        self._add(f"{name}.seeds", torch.zeros(count, dtype=torch.int64))

    def _add_head(self) -> Head:
        assert self.head is not None
        config, parameters = self.head
        cache = self._add_cache("eagle.cache", config, self.shapes.max_len + 1)
        frequencies = self._constant("eagle.frequencies", config.inverse_frequencies())
        shared = {"embed": self.parameters["embed"]}
        return Head(config, shared | parameters, frequencies, cache, self.shapes.max_len)

    def _add_speculation(self) -> None:
        s, tree = self.shapes, self.shapes.tree
        assert tree is not None
        for batch in s.batches:
            roots = torch.zeros(2, batch, dtype=torch.int64)
            roots[1] = s.max_len
            self._add(f"extend.{batch}.roots", roots)
            self._add(f"extend.{batch}.slots", torch.zeros(batch, dtype=torch.int64))
            self._add_sampling(f"extend.{batch}", batch)
        # The last row is for the padding of batches.
        drafts = self._register("tree", torch.from_numpy(tree.chains(s.slots + 1)), "state")
        depths = torch.tensor(tree.depths, dtype=torch.int64)
        depths = self._register("tree.depths", depths, "constant")
        self._speculation = Speculation(tree, depths, drafts, self._head, s.max_len)

    def prefill(self, length: int) -> dict[str, Tensor]:
        """Outputs `token` int64 [1] and `logits` float32 [1, vocab] at the wanted row."""
        name = f"prefill.{length}"
        rows, hidden, features = self._slot_pass(name, self.shapes.max_len + 1)
        wanted = self._inputs[f"{name}.wanted"]
        scores = logits(self.parameters, hidden.index_select(0, wanted))
        token = self._sample(name, scores, rows.positions.index_select(0, wanted))
        if self._head:
            after = self._inputs[f"{name}.next"]
            following = torch.cat((rows.tokens[1:], token))
            following = following.index_copy(0, wanted, torch.where(after < 0, token, after))
            self._speculation.absorb(features, rows, following)
        return {"token": token, "logits": scores.float()}

    def decode(self, batch: int) -> dict[str, Tensor]:
        """One row of each of any slots: `token` int64 [batch].

        `logits` [batch, vocab] are of the model's dtype: sampling reads them as they are.
        """
        name = f"decode.{batch}"
        rows = Rows.steps(self._inputs[f"{name}.plan"], self._inputs[f"{name}.slots"])
        hidden, _ = self._forward(rows, self.shapes.max_len + 1)
        scores = logits(self.parameters, hidden)
        return {"token": self._sample(name, scores, rows.positions), "logits": scores}

    def extend(self, batch: int) -> dict[str, Tensor]:
        """Checks the drafts that wait for each of any slots.

        `accepted` int64 [batch] counts drafted tokens that the model would have chosen, `token`
        int64 [batch, depth + 1] has them and the one that follows, then repeats.
        """
        name, speculation = f"extend.{batch}", self._speculation
        slots = self._inputs[f"{name}.slots"]
        token, position = self._inputs[f"{name}.roots"].unbind(0)
        drafts, rows = speculation.rows(token, position, slots)
        hidden, features = self._forward(rows, self.shapes.max_len + 1)
        scores = logits(self.parameters, hidden)
        choices = self._sample(name, scores, rows.positions).view(batch, -1)
        count, path, after = speculation.check(drafts, position, choices)
        speculation.move(self.cache, position, slots, count, path)
        if self._head:
            speculation.draft(features, position, slots, count, path, after)
        return {"accepted": count, "token": after}

    def verify(self, length: int, cuts: int) -> dict[str, Tensor]:
        """`verdicts` float32 [cuts], P(yes) / (P(yes) + P(no)), and `logits` [cuts, vocab].

        `kept` int64 [1] is the number, from 1, of the cut that the rule keeps, 0 for none.
        """
        name = f"verify.{length}x{cuts}"
        rows, hidden, features = self._slot_pass(name, self.shapes.rows)
        if self._head:
            following = torch.cat((rows.tokens[1:], rows.tokens[:1]))
            self._speculation.absorb(features, rows, following)
        wanted = self._inputs[f"{name}.wanted"]
        scores = logits(self.parameters, hidden.index_select(0, wanted)).float()
        chosen = scores.index_select(1, self._judge)
        verdicts = chosen.softmax(-1)[:, 0].contiguous()
        count, rule = self._inputs[f"{name}.rule"].split(1)
        kept = select(verdicts, count, self._inputs[f"{name}.threshold"], rule)
        return {"verdicts": verdicts, "kept": kept, "logits": scores}

    def _slot_pass(self, name: str, keys: int) -> tuple[Rows, Tensor, list[Tensor]]:
        rows = Rows.of(self._inputs[f"{name}.plan"], self._slot)
        return rows, *self._forward(rows, keys)

    def _forward(self, rows: Rows, keys: int) -> tuple[Tensor, list[Tensor]]:
        return forward(
            self.parameters, self.config, self._frequencies, rows, self.cache, keys, self._tapped,
            self._layer,
        )  # fmt: skip

    def _sample(self, name: str, scores: Tensor, positions: Tensor) -> Tensor:
        """A token of each row; a pass with several rows a slot has one sampling for them all."""
        temperature, top_p = self._inputs[f"{name}.sampling"].unbind(0)
        seeds = self._inputs[f"{name}.seeds"]
        repeat = scores.shape[0] // seeds.shape[0]
        if repeat > 1:
            temperature, top_p, seeds = (
                t.repeat_interleave(repeat) for t in (temperature, top_p, seeds)
            )
        return sample(scores, temperature, top_p, seeds, positions)

    def graphs(self) -> list[tuple[str, dict[str, int], Any]]:
        """Every pass as (graph name, key, function that computes its outputs)."""
        s = self.shapes
        found: list[tuple[str, dict[str, int], Any]] = []
        found += [("prefill", {"len": n}, partial(self.prefill, n)) for n in s.prefill]
        found += [("decode", {"batch": b}, partial(self.decode, b)) for b in s.batches]
        found += [
            ("verify", {"len": n, "cuts": k}, partial(self.verify, n, k)) for n, k in s.verify
        ]
        if s.tree:
            key = {"len": s.tree.rows}
            found += [("extend", {"batch": b, **key}, partial(self.extend, b)) for b in s.batches]
        return [(f"{self.name}.{name}", key, run) for name, key, run in found]
