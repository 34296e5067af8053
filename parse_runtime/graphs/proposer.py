"""The draft model as the drafter of tokens that extend passes check."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parse_runtime.engine.batch import Batch, Chunk
from parse_runtime.graphs.decoder import GraphDecoder
from parse_runtime.signature.tree import DraftTree


class DraftProposer:
    """Drafts chains of `depth` tokens for every slot of the target.

    The draft model samples with the target's seed and positions, and so with the same noise: where
    the models agree, so do their tokens, at any temperature.
    """

    def __init__(self, draft: GraphDecoder, depth: int) -> None:
        self._draft = draft
        self._drafts = DraftTree(depth).chains(draft.slots + 1)

    def propose(self, row_tokens: NDArray[np.int64], batch: Batch) -> NDArray[np.int64]:
        """Draft trees of all slots, as `parse_runtime.signature.passes` describes them.

        `row_tokens` [slots, max_len] has the target's sequences; the draft model is brought up to
        the row at each of the batch's positions, and goes on from there.
        """
        slots, positions, samplings = batch.slots, batch.positions, batch.samplings
        self._catch_up(row_tokens, batch)
        tokens = [
            int(row_tokens[slot, position]) for slot, position in zip(slots, positions, strict=True)
        ]
        depth = self._drafts.shape[2]
        for step in range(1, depth):
            room = [i for i, p in enumerate(positions) if p + step <= self._draft.max_len]
            if not room:
                break
            found = self._draft.decode(
                Batch(
                    [slots[i] for i in room],
                    [tokens[i] for i in room],
                    [positions[i] + step - 1 for i in room],
                    [samplings[i] for i in room],
                    ahead=step + 1 < depth,
                )
            )
            for i, token in zip(room, found, strict=True):
                tokens[i] = token
                self._drafts[slots[i], 0, step] = token
        return self._drafts

    def _catch_up(self, row_tokens: NDArray[np.int64], batch: Batch) -> None:
        missing = []
        for slot, end, sampling in zip(batch.slots, batch.positions, batch.samplings, strict=True):
            sequence = row_tokens[slot, :end]
            unlike = np.flatnonzero(self._draft.row_tokens[slot, :end] != sequence)
            if unlike.size:
                start = int(unlike[0])
                missing.append(Chunk(slot, sequence[start:].tolist(), start, sampling))
        self._draft.prefill_all(missing)
