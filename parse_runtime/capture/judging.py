"""What a verify pass makes of its hidden states: evidence, verdicts, and the cut that is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from parse_runtime.kernels.evidence import by_cut, least_sure, whole_tiles
from parse_runtime.kernels.gather import chained, elements_at, rows_at, widened
from parse_runtime.kernels.likelihood import token_likelihood
from parse_runtime.kernels.verdicts import judged
from parse_runtime.signature.evidence import FLOOR, UNLIKELY

Inputs = Mapping[str, Tensor]
"""Of a pass, by their names in its signature."""


@dataclass(frozen=True)
class Asked:
    """What a pass is asked about."""

    rows: Tensor
    """Int64 [D * K + n]: the last row of each cut's question, then those of drafted tokens."""
    draft: Tensor | None = None
    """Of evidence: float32 [D, N], the drafted tokens' likelihoods under the draft model,"""
    tokens: Tensor | None = None
    """int64 [n], those that the target is asked about,"""
    place: Tensor | None = None
    """and where each of N is among these, int64 [D, N]; -1 is of one that it is not."""


@dataclass(frozen=True)
class Judging:
    """A target model's; a pass of D drafts has up to K cuts and N scored tokens of each."""

    words: Tensor
    """Int64 [2], ids of the yes and no tokens."""
    digits: Tensor | None
    """Bool [vocab], where there is evidence."""
    likelihood: Tensor | None
    """`Passes.draft_likelihood`."""
    asked: float
    """`Passes.asked`."""
    shares: bool
    """Whether some passes judge several drafts: a draft is asked about as much in each."""
    logits: Callable[[Tensor], Tensor]
    """[N, vocab] of hidden states [N, hidden], in their dtype."""
    logits_of: Callable[[Tensor, Tensor], Tensor]
    """Float32 [N, tokens] of a few tokens, not rounded to that."""

    def asked_of(self, inputs: Inputs) -> Asked:
        """The rows whose hidden states `outputs` needs; they depend on the inputs alone."""
        wanted = inputs["wanted"].flatten()
        if "score" not in inputs:
            return Asked(wanted)
        drafts, cuts = self._sizes(inputs)
        scored = inputs["scored"].view(4, drafts, -1)
        _, _, segments, places = scored.unbind(0)
        draft = self._draft_likelihood(inputs, places)
        asked, place = self._asked(draft, segments, cuts)
        some = elements_at(scored, asked)
        return Asked(chained(wanted, some[0].flatten()), draft, some[1].flatten(), place)

    def outputs(self, inputs: Inputs, asked: Asked, hidden: Tensor) -> dict[str, Tensor]:
        """Of `ModelSignature.verify`, by hidden states [D * K + n, hidden] of `asked.rows`.

        A verdict is the logistic score of the cut's `evidence`; in a pass without evidence it is
        P(yes) / (P(yes) + P(no)).
        """
        wanted, threshold = inputs["wanted"], inputs["threshold"]
        # One product for cuts and drafted tokens: it reads the whole output layer.
        scores, ends = self.logits(hidden), wanted.numel()
        chosen = self._chosen(hidden[:ends], scores[:ends]).view(*self._sizes(inputs), 2)
        score, found = None, {}
        if "score" in inputs:
            chosen = self._evidence(inputs, asked, chosen, scores[ends:])
            score = inputs["score"].view(len(chosen), -1)
            found = {"evidence": chosen.view(*wanted.shape, -1)}
        count, rule = inputs["rule"].view(2, len(chosen)).unbind(0)
        verdicts, kept = judged(chosen, score, count, threshold, rule)
        logits = widened(scores[:ends]).view(*wanted.shape, -1)
        return {"verdicts": verdicts.view(wanted.shape), "kept": kept, "logits": logits, **found}

    def _sizes(self, inputs: Inputs) -> tuple[int, int]:
        """D and K."""
        drafts = inputs["threshold"].shape[0]
        return drafts, inputs["wanted"].numel() // drafts

    def _chosen(self, hidden: Tensor, scores: Tensor) -> Tensor:
        """Float32 [D * K, 2]: logits of yes and no. In bfloat16 they would come in eighths."""
        if scores.dtype == torch.float32:
            return elements_at(scores, self.words)
        return self.logits_of(hidden, self.words)

    def _evidence(self, inputs: Inputs, asked: Asked, chosen: Tensor, scores: Tensor) -> Tensor:
        """Float32 [D, K, EVIDENCE], by `chosen` of the cuts and logits [n, vocab] of tokens."""
        assert self.digits is not None
        assert asked.draft is not None and asked.tokens is not None and asked.place is not None
        drafts = len(chosen)
        _, tokens, segments, _ = inputs["scored"].view(4, drafts, -1).unbind(0)
        numbers = elements_at(self.digits, tokens.flatten()).view_as(tokens)
        own, entropy, choices = token_likelihood(scores, asked.tokens, FLOOR)
        said = own.view(drafts, -1), entropy.view(drafts, -1), choices.view(drafts, -1)
        carried = inputs["carried"].view(drafts, *inputs["carried"].shape[-2:])
        return by_cut(
            chosen, said, asked.place, tokens, asked.draft, numbers, segments, carried, UNLIKELY
        )

    def _draft_likelihood(self, inputs: Inputs, places: Tensor) -> Tensor:
        """Float32 [D, N], of drafted tokens under the draft model."""
        if self.likelihood is None:
            return torch.zeros_like(places, dtype=torch.float32)
        said = self.likelihood.flatten()
        if len(places) == 1:
            said = rows_at(self.likelihood, inputs["slots"])[0]
        return elements_at(said, places.flatten()).view_as(places)

    def _asked(self, draft: Tensor, segments: Tensor, cuts: int) -> tuple[Tensor, Tensor]:
        """Int64 [D, n], about which of N drafted tokens the target is asked; where all are, [D, N].

        Of those, -1 is of a token that it is not asked about.
        """
        drafts, tokens = draft.shape
        if self.likelihood is None:
            every = torch.arange(tokens, device=draft.device).expand(drafts, -1)
            return every, every
        count = math.ceil(tokens * self.asked)
        if self.asked < 1 and not self.shares:
            count = whole_tiles(count, cuts)
        return least_sure(draft, segments, cuts, count)
