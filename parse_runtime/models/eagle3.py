"""The EAGLE-3 head (arXiv 2503.01840): one layer that drafts from the target's hidden states.

At position i it sees the feature of target row i and the embedding of token i + 1, and predicts
token i + 2. The feature of a drafted row is the head's own output at its parent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foundryc.ranks import Ranks
from parse_runtime.kernels.linear import linear, linear_parts
from parse_runtime.kernels.norm import add_rms_norm
from parse_runtime.models.cache import Cache
from parse_runtime.models.config import ModelConfig
from parse_runtime.models.decoder import Pass, attention, mlp, rows_of, store
from parse_runtime.models.rows import Rows
from parse_runtime.signature.tree import DraftTree


def tapped_layers(layers: int) -> tuple[int, int, int]:
    """The target's layers whose entering hidden states are the low, middle and high feature."""
    return min(2, layers - 1), layers // 2, max(layers - 3, 0)


@dataclass(frozen=True)
class Head:
    """A head over the cache of its one layer; `config` has its sizes and the draft vocabulary."""

    config: ModelConfig
    parameters: Mapping[str, Tensor]
    inverse_frequencies: Tensor
    cache: Cache
    max_len: int
    ranks: Ranks | None = None
    """Where several ranks have parts of the embedding table; of the rest each has a copy."""

    def fuse(self, features: Sequence[Tensor]) -> Tensor:
        """The head's feature [T, hidden] of the target's low, middle and high ones."""
        return linear(torch.cat(list(features), dim=-1), self.parameters["fc"])

    def fill_cache(self, feature: Tensor, rows: Rows) -> None:
        """Store keys and values of target rows; `rows.tokens` are the tokens that follow them."""
        qkv = linear_parts(self._input(feature, rows.tokens), self.parameters["qkv"])
        store(self.parameters, self._pass(rows), qkv, self.cache.layer(0))

    def step(self, feature: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Log-probabilities float32 [T, draft vocabulary] of what follows each row, and the
        layer's output [T, hidden], the feature of the rows that follow.
        """
        p, c = self.parameters, self.config
        x = self._input(feature, rows.tokens)
        added = attention(p, self._pass(rows), x, self.cache.layer(0))
        x, hidden = add_rms_norm(added, feature, p["post_norm"], c.rms_eps)
        x, output = add_rms_norm(mlp(p, x), hidden, p["norm"], c.rms_eps)
        return linear(x, p["head"]).float().log_softmax(-1), output

    def target_ids(self, tokens: Tensor) -> Tensor:
        """The target's ids of ids of the draft vocabulary."""
        if "d2t" not in self.parameters:
            return tokens
        offsets = self.parameters["d2t"].index_select(0, tokens.flatten())
        return tokens + offsets.view_as(tokens)

    def draft(
        self, feature: Tensor, token: Tensor, position: Tensor, slots: Tensor, tree: DraftTree
    ) -> Tensor:
        """Int64 [B, 3, tree.rows]: tokens, parents and ancestor bits of the likeliest drafts.

        `feature` [B, hidden] is of the target's row at `position`, `token` the one after it, which
        becomes the root. Each level keeps the `width` nodes of the highest probability from the
        root (EAGLE-2, arXiv 2406.16858). A padding row's position is max_len.
        """
        width, batch = tree.width, token.shape[0]
        scores, output = self.step(feature, self._root(token, position, slots))
        scores, tokens = scores.topk(width, dim=-1)
        first = torch.arange(1, width + 1, dtype=torch.int64, device=token.device).expand(batch, -1)
        one = torch.ones_like(first)
        levels = [(self.target_ids(tokens), one - 1, one | (one << first))]
        feature = output.repeat_interleave(width, dim=0)
        for level in range(1, tree.depth):
            ids, _, ancestors = levels[-1]
            rows = self._nodes(ids, position, level, ancestors, slots, first)
            best, output = self.step(feature, rows)
            best, tokens = best.topk(width, dim=-1)
            paths = scores[:, :, None] + best.view(batch, width, width)
            scores, chosen = paths.flatten(1).topk(width, dim=-1)
            parent = chosen // width
            tokens = tokens.view(batch, width * width).gather(1, chosen)
            own = one << (first + level * width)
            levels.append(
                (
                    self.target_ids(tokens),
                    parent + 1 + (level - 1) * width,
                    ancestors.gather(1, parent) | own,
                )
            )
            whole = torch.arange(batch, dtype=torch.int64, device=token.device)[:, None] * width
            feature = output.index_select(0, (whole + parent).flatten())
        roots = (token[:, None], torch.zeros_like(token)[:, None], torch.ones_like(token)[:, None])
        columns = zip(roots, *levels, strict=True)
        return torch.stack([torch.cat(column, dim=1) for column in columns], dim=1)

    def _root(self, token: Tensor, position: Tensor, slots: Tensor) -> Rows:
        cuts = torch.where(position < self.max_len, position + 1, 0)
        return Rows(token, position, position, cuts, position, slots, torch.ones_like(token))

    def _nodes(
        self, ids: Tensor, position: Tensor, level: int, ancestors: Tensor, slots: Tensor,
        first: Tensor,
    ) -> Rows:  # fmt: skip
        """Rows of the drafted nodes of a level, kept behind the root's."""
        width = ids.shape[1]
        root = position[:, None].expand_as(ids)
        rows = (root + first + (level - 1) * width).clamp(max=self.max_len)
        cuts = torch.where(root < self.max_len, root + 1, 0)
        starts = (root + 1).clamp(max=self.max_len)
        # A padding row reads the padding row.
        seen = torch.where(root < self.max_len, ancestors >> 1, 1)
        return Rows.flat(ids, root + level, rows, cuts, starts, slots, seen)

    def _input(self, feature: Tensor, tokens: Tensor) -> Tensor:
        """The layer's input [T, 2 * hidden]: the token's embedding beside the feature."""
        p, eps = self.parameters, self.config.rms_eps
        embedding = rows_of(p["embed"], tokens, self.ranks)
        e, _ = add_rms_norm(embedding, None, p["input_norm"], eps, ranks=self.ranks)
        f, _ = add_rms_norm(feature, None, p["hidden_norm"], eps)
        return torch.cat((e, f), dim=-1)

    def _pass(self, rows: Rows) -> Pass:
        tables, keys = self.cache.tables, self.max_len + 1
        return Pass(self.config, self.inverse_frequencies, rows, tables, keys)
