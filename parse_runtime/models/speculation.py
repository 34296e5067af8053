"""Drafted tokens inside the graphs: put into rows, accepted, made contiguous, drafted again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from parse_runtime.kernels.drafts import Tree, accept, followed, move, rooted
from parse_runtime.kernels.gather import put_rows, rows_at
from parse_runtime.kernels.plan import following
from parse_runtime.models.cache import Cache
from parse_runtime.models.eagle3 import Head
from parse_runtime.models.rows import Rows
from parse_runtime.signature.tree import DraftTree


@dataclass(frozen=True)
class Speculation:
    """The drafts of every slot, and what is done with them.

    `drafts` int64 [slots + 1, 3, tree.rows] has tokens, parents and ancestor bits; row 0 of each
    is the root, whose token a pass is given. Its last entry serves the padding of batches. What
    waits in it may be wrong: a wrong draft is not accepted.
    """

    tree: DraftTree
    depths: Tensor
    drafts: Tensor
    head: Head | None
    max_len: int

    def rows(self, token: Tensor, position: Tensor, slots: Tensor) -> tuple[Tree, Rows]:
        """The drafts with their roots put in, and the rows of the pass."""
        tree = rooted(self.drafts, self.depths, token, position, slots, self.max_len)
        rows = Rows(
            tree.tokens, tree.positions, tree.rows, tree.cuts, tree.starts, slots, tree.seen
        )
        return tree, rows

    def check(self, tree: Tree, position: Tensor, choices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Count [B] and rows [B, depth + 1] of the accepted path, and the choice after each row."""
        depth = self.tree.depth
        return accept(tree.drafts, self.depths, choices, position, self.max_len, depth)

    def fill_head_cache(
        self, features: Sequence[Tensor], rows: Rows,
        ends: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> None:  # fmt: skip
        """Let the head store the rows of a prefill or verify pass, with the tokens after each.

        Rows of suffixes, beyond the sequence, go to the padding row. `ends` as for `following`.
        """
        assert self.head is not None
        tokens, places = following(rows.tokens, rows.rows, self.max_len, ends)
        kept = Rows(tokens, rows.positions, places, rows.cuts, rows.starts, rows.slots)
        self.head.fill_cache(self.head.fuse(features), kept)

    def go_on(
        self, cache: Cache, features: Sequence[Tensor], tree: Tree, slots: Tensor, position: Tensor,
        count: Tensor, path: Tensor, after: Tensor,
    ) -> None:  # fmt: skip
        """Let the accepted path be the sequence's, the head store it and draft what follows it."""
        assert self.head is not None
        found = followed(position, count, path, after, self.tree.rows, self.max_len)
        to = found.to.flatten()
        if self.tree.width > 1:  # a chain's rows lie there
            move(cache.values, cache.tables, slots, found.come, found.to)
        feature = self.head.fuse(features, found.at)
        # Only stored: nothing is read as cuts and starts say.
        self.head.fill_cache(feature, Rows(after.flatten(), to, to, to, to, slots))
        drafts = self.head.draft(rows_at(feature, found.last), found, slots, self.tree)
        put_rows(self.drafts, tree.entries, drafts)
