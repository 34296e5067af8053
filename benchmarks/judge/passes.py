"""A model's passes without a bundle: of any size, so that nothing is computed for padding."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
import torch
from torch import Tensor

from parse_runtime.capture.parameters import load_parameters
from parse_runtime.models.cache import Cache
from parse_runtime.models.decoder import forward, logits
from parse_runtime.models.rows import Rows
from parse_runtime.signature.plan import causal, padded, verification_plan
from parse_runtime.weights.source import Model


class Network:
    """A decoder in torch. `slots` hold sequences of up to `max_len` tokens; greedy."""

    def __init__(self, model: Model, dtype: str, slots: int, max_len: int, scratch: int = 0):
        self.config, self.max_len = model.config, max_len
        self._parameters = load_parameters(
            "model", model.parameters, dtype, lambda name, tensor, role, slices=None: tensor
        )
        self._frequencies = torch.tensor(self.config.inverse_frequencies())
        self.rows = max_len + 1 + scratch
        self.cache = self._empty(slots, self.rows)

    def _empty(self, slots: int, rows: int) -> Cache:
        return Cache.apart(self._parameters["embed"], self.config, slots, rows)

    def beside(self, slots: int) -> Network:
        """The same weights with another cache, of so many slots without scratch rows."""
        other = copy(self)
        other.rows = self.max_len + 1
        other.cache = other._empty(slots, other.rows)
        return other

    def read(self, slot: int, tokens: Sequence[int], start: int = 0) -> Tensor:
        """Hidden states [T, hidden] of tokens that continue a slot's sequence."""
        plan = causal(tokens, start, len(tokens), self.max_len)
        return self._run(Rows.of(torch.from_numpy(plan), torch.tensor([slot])), self.max_len + 1)

    def verify(
        self, slot: int, tokens: Sequence[int], suffix: Sequence[int], cuts: Sequence[int],
        start: int = 0,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Hidden states of tokens that continue a slot's `start`, and of each cut's suffix's last.

        A cut is a sequence length.
        """
        rows = len(tokens) + len(cuts) * len(suffix)
        plan, ends = verification_plan(
            tokens, start, suffix, cuts, rows, self.max_len, self.max_len + 1
        )
        found = self._run(Rows.of(torch.from_numpy(plan), torch.tensor([slot])), self.rows)
        return found[: len(tokens)], found[torch.from_numpy(ends)]

    def step(self, slots: Sequence[int], tokens: Sequence[int], places: Sequence[int]) -> Tensor:
        """Logits [B, V] after one token of each slot."""
        plan, here = padded(len(slots), self.max_len), np.asarray(places)
        plan[:] = tokens, here, here, here + 1, here
        rows = Rows.steps(torch.from_numpy(plan), torch.tensor(list(slots)))
        return self.logits(self._run(rows, max(places) + 1))

    def chains(self, slots: Sequence[int], tokens: Tensor, places: Sequence[int]) -> Tensor:
        """Logits [B * L, V] after each of the tokens [B, L] that continue the slots' sequences."""
        length = tokens.shape[1]
        row, root = torch.arange(length), torch.tensor(list(places))[:, None]
        start = root.expand_as(tokens)
        seen = ((2 << row) - 1).expand_as(tokens)
        each = [x.flatten() for x in (tokens, root + row, root + row, start, start)]
        rows = Rows(*each, torch.tensor(list(slots)), seen.flatten())
        return self.logits(self._run(rows, max(places) + length))

    def logits(self, hidden: Tensor) -> Tensor:
        """[N, V] of hidden states."""
        return logits(self._parameters, hidden, self.config.logit_cap)

    def log_odds(self, hidden: Tensor, yes: int, no: int) -> Tensor:
        """Float32 [N] of one token against another after hidden states, without rounding."""
        table = self._parameters["head" if "head" in self._parameters else "embed"]
        return hidden.float() @ (table[yes].float() - table[no].float())

    def _run(self, rows: Rows, keys: int) -> Tensor:
        hidden, _ = forward(
            self._parameters, self.config, self._frequencies, rows, self.cache, keys
        )
        return hidden
