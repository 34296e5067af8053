"""What the passes of a model compute, over the tensors that their signatures name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from foundryc.ranks import Ranks
from foundryc.recorder import Recorder
from parse_runtime.capture.judging import Judging
from parse_runtime.capture.parameters import Register
from parse_runtime.kernels.activations import fp8_activations
from parse_runtime.kernels.gather import elements_at, rows_at
from parse_runtime.kernels.likelihood import keep_likelihood
from parse_runtime.kernels.ranks import side_by_side
from parse_runtime.kernels.sample import sample, sample_and_step
from parse_runtime.kernels.streamed import of_ranks
from parse_runtime.models.cache import Cache
from parse_runtime.models.config import ModelConfig
from parse_runtime.models.decoder import (
    Layer,
    Wanted,
    decoder_layer,
    forward,
    logits,
    logits_of,
)
from parse_runtime.models.eagle3 import Head, tapped_layers
from parse_runtime.models.loose import LooseRule
from parse_runtime.models.rows import Rows
from parse_runtime.models.speculation import Speculation
from parse_runtime.signature.evidence import FLOOR
from parse_runtime.signature.passes import Input, ModelSignature, PassSignature
from parse_runtime.signature.sizes import BLOCK, PassSizes

Run = Callable[[], dict[str, Tensor]]
"""Computes a pass; its outputs by name."""
Compile = Callable[[Layer], Layer]
"""`Recorder.compiled`."""


def record_graphs(recorder: Recorder, graphs: Iterable[tuple[PassSignature, Run]]) -> None:
    """Record each pass as a graph, with its outputs."""
    for signature, run in graphs:
        with recorder.graph(signature.graph, **signature.key) as graph:
            found = run()
            for output in signature.outputs:
                graph.output(output, found[output])


@dataclass
class Passes:
    """One model with its own cache and inputs, registered under `name`."""

    name: str
    config: ModelConfig
    parameters: Mapping[str, Tensor]
    sizes: PassSizes
    register: Register
    judge_tokens: tuple[int, int] = (0, 0)
    """Ids of the yes and no tokens; used by `verify` alone."""
    compiled: Compile = lambda layer: layer
    head: tuple[ModelConfig, Mapping[str, Tensor]] | None = None
    """An EAGLE-3 head that drafts for the extend passes."""
    loose: LooseRule | None = None
    """Which other drafted tokens than the model's own choices extend passes accept."""
    likelihood: Tensor | None = None
    """Of a draft model: where it keeps `ModelSignature.likelihood`,"""
    draft_likelihood: Tensor | None = None
    """of a target: where its draft model does. None: drafted tokens count as certain to it."""
    run_ahead: bool = False
    """Decode passes end with the plan of the next step."""
    digits: Sequence[bool] = ()
    """Of each token of the vocabulary, whether it is a number's; for evidence."""
    asked: float = 1.0
    """The share of drafted tokens that evidence asks the target about, the least sure ones."""
    ranks: Ranks | None = None
    """Those that share the model; `config` and `parameters` are then one rank's."""
    fp8_activations: bool = False
    """Prefill and verify passes multiply in FP8 where weights are in FP8. Decode and extend passes
    never do: a drafted token is then accepted as it would be decoded."""
    _inputs: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # One layer is compiled, not the model: all layers of a pass share its code.
        self._layer = self.compiled(decoder_layer)
        c, s = self.config, self.sizes
        self.signature = found = ModelSignature(self.name, s, self.head is not None, self.run_ahead)
        self._prefill = [found.prefill(length) for length in s.prefill]
        self._decode = [found.decode(batch) for batch in s.batches]
        self._mixed = [found.mixed(*size) for size in s.mixed]
        self._verify = [found.verify(*size) for size in (*s.verify, *s.shared)]
        self._extend = [found.extend(batch) for batch in s.batches] if s.tree else []
        self._tables = self._input(found.tables)
        self.cache = self._add_cache("cache", c)
        self._frequencies = self._constant("inverse_frequencies", c.inverse_frequencies())
        self._windowed_frequencies = None
        if c.windowed_rope_theta:
            name = "windowed_frequencies"
            self._windowed_frequencies = self._constant(name, c.windowed_frequencies())
        for signature in (*self._prefill, *self._decode, *self._mixed, *self._verify):
            self._add_inputs(signature)
        if s.verify:
            self._judging = self._add_judging()
        self._head = self._add_head() if self.head else None
        self._tapped = tapped_layers(c.layers) if self.head else ()
        for signature in self._extend:
            self._add_inputs(signature)
        if s.tree:
            self._speculation = self._add_speculation()

    def _constant(self, name: str, values: list[float]) -> Tensor:
        tensor = torch.tensor(values, dtype=torch.float32)
        return self.register(self.signature.tensor(name), tensor, "constant")

    def _add_cache(self, name: str, c: ModelConfig) -> Cache:
        sizes = self.sizes
        shape = (sizes.blocks, c.layers, 2, BLOCK, c.kv_heads, c.head_dim)
        empty = torch.zeros(shape, dtype=self.parameters["embed"].dtype)
        grows = sizes.most_blocks if sizes.kv_most else None
        name = self.signature.tensor(name)
        return Cache(self.register(name, empty, "state", grows=grows), self._tables)

    def _input(self, found: Input) -> Tensor:
        """Its tensor, which is registered once, whatever passes share it."""
        if found.name not in self._inputs:
            initial = torch.tensor(found.initial)
            self._inputs[found.name] = self.register(found.name, initial, found.role)
        return self._inputs[found.name]

    def _add_inputs(self, signature: PassSignature) -> None:
        for found in signature.inputs.values():
            self._input(found)

    def _read(self, signature: PassSignature, name: str) -> Tensor:
        return self._inputs[signature.inputs[name].name]

    def _add_head(self) -> Head:
        assert self.head is not None
        config, parameters = self.head
        cache = self._add_cache("eagle.cache", config)
        frequencies = self._constant("eagle.frequencies", config.inverse_frequencies())
        shared = {"embed": self.parameters["embed"]}
        ranks = None if "embed" in parameters else self.ranks
        return Head(config, {**shared, **parameters}, frequencies, cache, self.sizes.max_len, ranks)

    def _add_speculation(self) -> Speculation:
        tree, drafts = self.sizes.tree, self._input(self.signature.drafts)
        assert tree is not None
        depths = torch.tensor(tree.depths, dtype=torch.int64)
        depths = self.register(self.signature.tensor("tree.depths"), depths, "constant")
        return Speculation(tree, depths, drafts, self._head, self.sizes.max_len)

    def _add_judging(self) -> Judging:
        tokens, digits = torch.tensor(self.judge_tokens, dtype=torch.int64), None
        tokens = self.register(self.signature.tensor("judge_tokens"), tokens, "constant")
        if self.sizes.scored:
            digits = torch.zeros(self.config.vocab, dtype=torch.bool)
            known = torch.tensor(self.digits[: self.config.vocab], dtype=torch.bool)
            digits[: len(known)] = known
            digits = self.register(self.signature.tensor("digits"), digits, "constant")
        return Judging(
            tokens, digits, self.draft_likelihood, self.asked, bool(self.sizes.shared),
            self._logits,
            partial(logits_of, self.parameters, cap=self.config.logit_cap, ranks=self.ranks),
        )  # fmt: skip

    def prefill(self, signature: PassSignature) -> dict[str, Tensor]:
        """Chunks of prompts, and a token sampled after each of their last rows."""
        rows = Rows.of(self._read(signature, "plan"), self._read(signature, "slots"))
        wanted = self._read(signature, "wanted")
        hidden, features = self._forward(rows, self.sizes.max_len + 1, Wanted(wanted))
        scores = self._logits(hidden)
        token = self._sample(signature, scores, elements_at(rows.positions, wanted))
        if self.likelihood is not None:
            places = elements_at(rows.places(self.sizes.max_len + 1), wanted)
            keep_likelihood(self.likelihood.view(-1), places, scores, token, FLOOR)
        if self._head:
            ends = wanted, self._read(signature, "next"), token
            self._speculation.fill_head_cache(features, rows, ends)
        return {"token": token, "logits": scores}

    def decode(self, signature: PassSignature) -> dict[str, Tensor]:
        """One row of each of any slots, and a token sampled after each.

        Its logits stay in the model's dtype: sampling reads them as they are.
        """
        plan = self._read(signature, "plan")
        rows = Rows.steps(plan, self._read(signature, "slots"))
        # Before the plan moves on; no kernel is spent on it where nobody asks.
        places = None if self.likelihood is None else rows.places(self.sizes.max_len + 1)
        hidden, _ = self._forward(rows, self.sizes.max_len + 1)
        scores = self._logits(hidden)
        sampling = self._sampling(signature)
        if self.run_ahead:
            token = sample_and_step(scores, *sampling, plan, self.sizes.max_len)
        else:
            token = sample(scores, *sampling, rows.positions)
        if self.likelihood is not None and places is not None:
            keep_likelihood(self.likelihood.view(-1), places, scores, token, FLOOR)
        return {"token": token, "logits": scores}

    def mixed(self, signature: PassSignature) -> dict[str, Tensor]:
        """A decode step of some slots, and chunks of prompts of others: weights are read once."""
        plan, steps = self._read(signature, "plan"), self._read(signature, "steps")
        rows = Rows.mixed(plan, steps, self._read(signature, "slots"))
        wanted, count = self._read(signature, "wanted"), steps.shape[0]
        hidden, _ = self._forward(rows, self.sizes.max_len + 1, Wanted(wanted, count))
        scores = self._logits(hidden)
        token = self._sample(signature, scores, rows_at(rows.positions, wanted, count))
        return {"token": token, "logits": scores}

    def extend(self, signature: PassSignature) -> dict[str, Tensor]:
        """Checks the drafts that wait for each of any slots.

        `accepted` counts drafted tokens that the model would have chosen, or that its loose rule
        lets stay; `token` has them and the one that follows, then repeats.
        """
        speculation, slots = self._speculation, self._read(signature, "slots")
        token, position = self._read(signature, "roots").unbind(0)
        tree, rows = speculation.rows(token, position, slots)
        hidden, features = self._forward(rows, self.sizes.max_len + 1)
        scores = self._logits(hidden)
        choices = self._sample(signature, scores, rows.positions).view(slots.shape[0], -1)
        if self.loose:
            choices = self.loose.choices(tree.tokens.view_as(choices), choices, scores)
        count, path, after = speculation.check(tree, position, choices)
        if self._head:
            speculation.go_on(self.cache, features, tree, slots, position, count, path, after)
        return {"accepted": count, "token": after}

    def verify(self, signature: PassSignature) -> dict[str, Tensor]:
        """`Judging.outputs`, of one draft or several."""
        inputs = {name: self._read(signature, name) for name in signature.inputs}
        rows = Rows.of(inputs["plan"], inputs["slots"])
        asked = self._judging.asked_of(inputs)
        hidden, features = self._forward(rows, self.sizes.slot_rows, Wanted(asked.rows))
        if self._head:
            # Behind the last row of a draft that fills its pass is no token of its own: there the
            # head guesses worse.
            self._speculation.fill_head_cache(features, rows)
        return self._judging.outputs(inputs, asked, hidden)

    def _forward(
        self, rows: Rows, keys: int, wanted: Wanted | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        return forward(
            self.parameters, self.config, self._frequencies, rows, self.cache, keys, self._tapped,
            self._layer, self._windowed_frequencies, self.ranks, wanted,
        )  # fmt: skip

    def _logits(self, hidden: Tensor) -> Tensor:
        scores = logits(self.parameters, hidden, self.config.logit_cap)
        if self.ranks is None:
            return scores
        return side_by_side(scores, self.ranks, self.config.vocab)

    def _sample(self, signature: PassSignature, scores: Tensor, positions: Tensor) -> Tensor:
        """A token of each row; a pass with several rows a slot has one sampling for them all."""
        temperature, top_p, seeds = self._sampling(signature)
        return sample(scores, temperature, top_p, seeds, positions)

    def _sampling(self, signature: PassSignature) -> tuple[Tensor, Tensor, Tensor]:
        """Temperatures, top-p and seeds."""
        temperature, top_p = self._read(signature, "sampling").unbind(0)
        return temperature, top_p, self._read(signature, "seeds")

    def graphs(self) -> list[tuple[PassSignature, Run]]:
        """Every pass, and what computes its outputs."""
        fp8 = self.fp8_activations
        kinds = (
            (self._prefill, self.prefill, fp8),
            (self._decode, self.decode, False),
            (self._mixed, self.mixed, False),
            (self._verify, self.verify, fp8),
            (self._extend, self.extend, False),
        )
        return [
            (found, partial(self._run, partial(run, found), rounds))
            for passes, run, rounds in kinds
            for found in passes
        ]

    def _run(self, run: Run, fp8: bool) -> dict[str, Tensor]:
        with of_ranks(self.ranks is not None), fp8_activations(fp8):
            return run()
