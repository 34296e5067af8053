"""The EAGLE-3 head (arXiv 2503.01840): one layer that drafts from the target's hidden states.

At position i it sees the feature of target row i and the embedding of token i + 1, and predicts
token i + 2. The feature of a drafted row is the head's own output at its parent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from foundryc.ranks import Ranks
from parse_runtime.kernels.drafts import Path
from parse_runtime.kernels.gather import joined, rows_at
from parse_runtime.kernels.grow import grown
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

    def fuse(self, features: Sequence[Tensor], index: Tensor | None = None) -> Tensor:
        """The head's feature [T, hidden] of the target's low, middle and high ones.

        Of all their rows, or of those at `index`, int64 [T].
        """
        return linear(joined(features, index), self.parameters["fc"])

    def fill_cache(self, feature: Tensor, rows: Rows) -> None:
        """Store keys and values of target rows; `rows.tokens` are the tokens that follow them."""
        qkv = linear_parts(self._input(feature, rows.tokens), self.parameters["qkv"])
        store(self.parameters, self._pass(rows), qkv, self.cache.layer(0))

    def step(self, feature: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Logits [T, draft vocabulary] of what follows each row, and the layer's output
        [T, hidden], the feature of the rows that follow.
        """
        p, c = self.parameters, self.config
        x = self._input(feature, rows.tokens)
        added = attention(p, self._pass(rows), x, self.cache.layer(0))
        x, hidden = add_rms_norm(added, feature, p["post_norm"], c.rms_eps)
        x, output = add_rms_norm(mlp(p, x), hidden, p["norm"], c.rms_eps)
        return linear(x, p["head"]), output

    def draft(self, feature: Tensor, path: Path, slots: Tensor, tree: DraftTree) -> Tensor:
        """Int64 [B, 3, tree.rows]: tokens, parents and ancestor bits of the likeliest drafts.

        `feature` [B, hidden] is of the last row of each `path`; the token after it becomes the
        root. Each level keeps the `width` nodes of the highest probability from the root (EAGLE-2,
        arXiv 2406.16858).
        """
        token, root = path.token, path.position
        drafts = token.new_empty(token.shape[0], 3, tree.rows)
        rows = Rows(token, root, root, path.cut, root, slots, path.seen)
        scores = None
        for level in range(tree.depth):
            found, output = self.step(feature, rows)
            nodes = grown(
                found, scores, drafts, level, tree.width, self.parameters.get("d2t"), token, root,
                self.max_len,
            )  # fmt: skip
            if level + 1 < tree.depth:
                scores, feature = nodes.scores, rows_at(output, nodes.at)
                rows = Rows(
                    nodes.tokens, nodes.positions, nodes.rows, nodes.cuts, nodes.starts, slots,
                    nodes.seen,
                )  # fmt: skip
        return drafts

    def _input(self, feature: Tensor, tokens: Tensor) -> Tensor:
        """The layer's input [T, 2 * hidden]: the token's embedding beside the feature."""
        p, eps = self.parameters, self.config.rms_eps
        embedding = rows_of(p["embed"], tokens, self.ranks)
        e, _ = add_rms_norm(embedding, None, p["input_norm"], eps, ranks=self.ranks)
        f, _ = add_rms_norm(feature, None, p["hidden_norm"], eps)
        return joined((e, f))

    def _pass(self, rows: Rows) -> Pass:
        tables, keys = self.cache.tables, self.max_len + 1
        return Pass(self.config, self.inverse_frequencies, rows, tables, keys)
