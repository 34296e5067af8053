"""Drafted tokens inside the graphs: put into rows, accepted, made contiguous, drafted again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from parse_runtime.kernels.rotate import places
from parse_runtime.models.acceptance import accept
from parse_runtime.models.cache import Cache
from parse_runtime.models.eagle3 import Head
from parse_runtime.models.rows import Rows
from parse_runtime.signature.sizes import BLOCK
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

    def rows(self, token: Tensor, position: Tensor, slots: Tensor) -> tuple[Tensor, Rows]:
        """The drafts [B, 3, L] with their roots put in, and the rows of the pass.

        Drafts are kept in the rows behind the root's; those that lack room share the padding row.
        """
        padding = position >= self.max_len
        drafts = self.drafts.index_select(0, self._places(position, slots))
        tokens = torch.cat((token[:, None], drafts[:, 0, 1:]), dim=1)
        drafts = torch.stack((tokens, drafts[:, 1], drafts[:, 2]), dim=1)
        ancestors = drafts[:, 2]
        row = torch.arange(self.tree.rows, dtype=torch.int64, device=token.device)
        root = position[:, None].expand_as(tokens)
        seen = torch.where(padding[:, None], 1, ancestors)
        cuts = torch.where(padding, 0, position)[:, None].expand_as(tokens)
        places = (root + row).clamp(max=self.max_len)
        depths = root + self.depths
        return drafts, Rows.flat(tokens, depths, places, cuts, root, slots, seen)

    def check(
        self, drafts: Tensor, position: Tensor, choices: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Count [B] and rows [B, depth + 1] of the accepted path, and the choice after each row."""
        row = torch.arange(self.tree.rows, dtype=torch.int64, device=position.device)
        possible = position[:, None] + row < self.max_len
        tokens, parents, ancestors = drafts.unbind(1)
        count, path = accept(
            tokens, parents, ancestors, self.depths, choices, possible, self.tree.depth
        )
        return count, path, choices.gather(1, path)

    def move(
        self, cache: Cache, position: Tensor, slots: Tensor, count: Tensor, path: Tensor
    ) -> None:
        """Put keys and values of the accepted path one behind the other; a chain's are."""
        if self.tree.width == 1:
            return
        to, inside = self._path_rows(position, count)
        come = torch.where(inside, position[:, None] + path, to)
        rows = cache.values.movedim(3, 1)
        there, here = (places(cache.tables, slots, moved.flatten(), BLOCK) for moved in (come, to))
        rows.index_put_(here, rows[there])

    def fill_head_cache(self, features: Sequence[Tensor], rows: Rows, following: Tensor) -> None:
        """Let the head store the rows of a prefill or verify pass; `following` has the next tokens.

        Rows of suffixes, beyond the sequence, go to the padding row.
        """
        assert self.head is not None
        places = rows.rows.clamp(max=self.max_len)
        kept = Rows(following, rows.positions, places, rows.cuts, rows.starts, rows.slots)
        self.head.fill_cache(self.head.fuse(features), kept)

    def draft(
        self, features: Sequence[Tensor], position: Tensor, slots: Tensor, count: Tensor,
        path: Tensor, after: Tensor,
    ) -> None:  # fmt: skip
        """Let the head store the accepted path and draft what follows it."""
        assert self.head is not None
        batch, length = path.shape
        first = torch.arange(batch, dtype=torch.int64, device=path.device)[:, None]
        rows = (first * self.tree.rows + path).flatten()
        feature = self.head.fuse([f.index_select(0, rows) for f in features])
        places, _ = self._path_rows(position, count)
        zero = torch.zeros_like(places)
        level = torch.arange(length, dtype=torch.int64, device=path.device)
        kept = Rows.flat(after, position[:, None] + level, places, zero, places, slots, zero)
        self.head.fill_cache(feature, kept)
        last = first[:, 0] * length + count
        drafts = self.head.draft(
            feature.index_select(0, last),
            after.flatten().index_select(0, last),
            (position + count).clamp(max=self.max_len),
            slots,
            self.tree,
        )
        self.drafts.index_copy_(0, self._places(position, slots), drafts)

    def _path_rows(self, position: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [B, depth + 1] of the sequence that the path takes, and which are taken."""
        level = torch.arange(self.tree.depth + 1, dtype=torch.int64, device=position.device)
        rows = position[:, None] + level
        inside = (level <= count[:, None]) & (rows < self.max_len)
        return torch.where(inside, rows, self.max_len), inside

    def _places(self, position: Tensor, slots: Tensor) -> Tensor:
        """Entries of `drafts` that a batch reads and writes."""
        return torch.where(position >= self.max_len, self.drafts.shape[0] - 1, slots)
