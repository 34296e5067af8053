"""What a verify pass makes of its hidden states: evidence, verdicts, and the cut that is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from parse_runtime.models.acceptance import select
from parse_runtime.models.evidence import believed, by_cut, least_sure, statistics, verdicts

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
        ends = hidden.index_select(0, wanted.flatten())
        scores = self.logits(ends)
        chosen = self._chosen(ends, scores).view(drafts, -1, 2)
        found = {"logits": scores.float().view(*wanted.shape, -1)}
        if "score" in inputs:
            evidence = self._evidence(inputs, hidden, chosen)
            judged = verdicts(evidence, inputs["score"].view(drafts, -1))
            found["evidence"] = evidence.view(*wanted.shape, -1)
        else:
            judged = chosen.softmax(-1)[..., 0].contiguous()
        count, rule = inputs["rule"].view(2, drafts).unbind(0)
        kept = select(judged, count, threshold, rule)
        return {"verdicts": judged.view(wanted.shape), "kept": kept, **found}

    def _chosen(self, hidden: Tensor, scores: Tensor) -> Tensor:
        """Float32 [D * K, 2]: logits of yes and no. In bfloat16 they would come in eighths."""
        if scores.dtype == torch.float32:
            return scores.index_select(1, self.words)
        return self.logits_of(hidden, self.words)

    def _evidence(self, inputs: Inputs, hidden: Tensor, chosen: Tensor) -> Tensor:
        """[D, K, EVIDENCE] by the logits [D, K, 2] of yes and no."""
        assert self.digits is not None
        drafts, cuts = chosen.shape[:2]
        scored = inputs["scored"].view(4, drafts, -1)
        _, tokens, segments, places = scored.unbind(0)
        numbers = self.digits.index_select(0, tokens.flatten()).view_as(tokens)
        if self.likelihood is None:
            draft = torch.zeros_like(tokens, dtype=torch.float32)
            each = self._weighed(hidden, scored, draft)
        else:
            said = self.likelihood.flatten()
            if drafts == 1:
                said = self.likelihood.index_select(0, inputs["slots"])[0]
            draft = said.index_select(0, places.flatten()).view_as(places)
            # Of each draft as many, whatever others the pass has.
            asked = least_sure(draft, segments, cuts, math.ceil(tokens.shape[1] * self.asked))
            some = scored.gather(2, asked.expand(4, -1, -1))
            found = self._weighed(hidden, some, draft.gather(1, asked))
            each = believed(draft)
            each = each.scatter(1, asked[..., None].expand_as(found), found)
        carried = inputs["carried"].view(drafts, *inputs["carried"].shape[-2:])
        counted = by_cut(each, numbers, segments, carried, cuts)
        return torch.cat((chosen[..., :1] - chosen[..., 1:], counted), -1)

    def _weighed(self, hidden: Tensor, scored: Tensor, draft: Tensor) -> Tensor:
        """[D, n, STATISTICS] of some drafted tokens of each draft."""
        rows, tokens = scored[0].flatten(), scored[1].flatten()
        scores = self.logits(hidden.index_select(0, rows))
        return statistics(scores, tokens, draft.flatten()).view(*draft.shape, -1)
