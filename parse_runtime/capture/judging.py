"""What a verify pass makes of its hidden states: evidence, verdicts, and the cut that is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from parse_runtime.kernels.evidence import by_cut, least_sure, whole_tiles
from parse_runtime.kernels.likelihood import token_likelihood
from parse_runtime.models.acceptance import select
from parse_runtime.models.evidence import verdicts
from parse_runtime.signature.evidence import FLOOR, UNLIKELY

Inputs = Mapping[str, Tensor]
"""Of a pass, by their names in its signature."""


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

    def outputs(self, inputs: Inputs, hidden: Tensor) -> dict[str, Tensor]:
        """Of `ModelSignature.verify`, by hidden states [rows, hidden] of all rows.

        A verdict is the logistic score of the cut's `evidence`; in a pass without evidence it is
        P(yes) / (P(yes) + P(no)).
        """
        wanted, threshold = inputs["wanted"], inputs["threshold"]
        drafts = threshold.shape[0]
        if "score" in inputs:
            scores, evidence = self._evidence(inputs, hidden, drafts)
            judged = verdicts(evidence, inputs["score"].view(drafts, -1))
            found = {"evidence": evidence.view(*wanted.shape, -1)}
        else:
            ends = hidden.index_select(0, wanted.flatten())
            scores, found = self.logits(ends), {}
            chosen = self._chosen(ends, scores).view(drafts, -1, 2)
            judged = chosen.softmax(-1)[..., 0].contiguous()
        count, rule = inputs["rule"].view(2, drafts).unbind(0)
        kept = select(judged, count, threshold, rule)
        logits = scores.float().view(*wanted.shape, -1)
        return {"verdicts": judged.view(wanted.shape), "kept": kept, "logits": logits, **found}

    def _chosen(self, hidden: Tensor, scores: Tensor) -> Tensor:
        """Float32 [D * K, 2]: logits of yes and no. In bfloat16 they would come in eighths."""
        if scores.dtype == torch.float32:
            return scores.index_select(1, self.words)
        return self.logits_of(hidden, self.words)

    def _evidence(self, inputs: Inputs, hidden: Tensor, drafts: int) -> tuple[Tensor, Tensor]:
        """Logits [D * K, vocab] of the cuts, and evidence float32 [D, K, EVIDENCE]."""
        assert self.digits is not None
        wanted = inputs["wanted"].view(drafts, -1)
        cuts, scored = wanted.shape[1], inputs["scored"].view(4, drafts, -1)
        _, tokens, segments, places = scored.unbind(0)
        numbers = self.digits.index_select(0, tokens.flatten()).view_as(tokens)
        draft = self._draft_likelihood(inputs, places)
        asked, place = self._asked(draft, segments, cuts)
        some = scored.gather(2, asked.expand(4, -1, -1))
        # One product for both: it reads the whole output layer.
        rows = hidden.index_select(0, torch.cat((wanted.flatten(), some[0].flatten())))
        scores, ends = self.logits(rows), wanted.numel()
        chosen = self._chosen(rows[:ends], scores[:ends]).view(drafts, cuts, 2)
        said = token_likelihood(scores[ends:], some[1].flatten(), FLOOR)
        said_of = [one.view(drafts, -1) for one in said]
        carried = inputs["carried"].view(drafts, *inputs["carried"].shape[-2:])
        found = [
            by_cut(
                chosen[i], (said_of[0][i], said_of[1][i], said_of[2][i]), place[i], tokens[i],
                draft[i], numbers[i], segments[i], carried[i], UNLIKELY,
            )
            for i in range(drafts)
        ]  # fmt: skip
        return scores[:ends], torch.stack(found)

    def _draft_likelihood(self, inputs: Inputs, places: Tensor) -> Tensor:
        """Float32 [D, N], of drafted tokens under the draft model."""
        if self.likelihood is None:
            return torch.zeros_like(places, dtype=torch.float32)
        said = self.likelihood.flatten()
        if len(places) == 1:
            said = self.likelihood.index_select(0, inputs["slots"])[0]
        return said.index_select(0, places.flatten()).view_as(places)

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
        found = [least_sure(draft[i], segments[i], cuts, count) for i in range(drafts)]
        asked, place = zip(*found, strict=True)
        return torch.stack(asked), torch.stack(place)
