"""The draft model as the drafter of tokens that extend passes check."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from parse_runtime.engine.protocols import Sampling
from parse_runtime.graphs.decoder import GraphDecoder
from parse_runtime.signature.sizes import Tree


class DraftProposer:
    """Drafts chains of `depth` tokens for every slot of the target.

    The draft model samples with the target's seed and positions, and so with the same noise: where
    the models agree, so do their tokens, at any temperature.
    """

    def __init__(self, draft: GraphDecoder, depth: int) -> None:
        self._draft = draft
        self._drafts = Tree(depth).chains(draft.slots + 1)

    def propose(
        self,
        held: NDArray[np.int64],
        slots: Sequence[int],
        positions: Sequence[int],
        samplings: Sequence[Sampling],
    ) -> NDArray[np.int64]:
        """Drafts of all slots, as `parse_runtime.models.speculation.Speculation` keeps them.

        `held` [slots, max_len] has the target's sequences; the draft model is brought up to the
        row at each of `positions`, and goes on from there.
        """
        for slot, position, sampling in zip(slots, positions, samplings, strict=True):
            self._catch_up(held[slot, :position], slot, sampling)
        tokens = [
            int(held[slot, position]) for slot, position in zip(slots, positions, strict=True)
        ]
        for step in range(1, self._drafts.shape[2]):
            room = [i for i, p in enumerate(positions) if p + step <= self._draft.max_len]
            if not room:
                break
            found = self._draft.decode(
                [slots[i] for i in room],
                [tokens[i] for i in room],
                [positions[i] + step - 1 for i in room],
                [samplings[i] for i in room],
            )
            for i, token in zip(room, found, strict=True):
                tokens[i] = token
                self._drafts[slots[i], 0, step] = token
        return self._drafts

    def _catch_up(self, sequence: NDArray[np.int64], slot: int, sampling: Sampling) -> None:
        unlike = np.flatnonzero(self._draft.held[slot, : len(sequence)] != sequence)
        if unlike.size:
            start = int(unlike[0])
            self._draft.prefill(slot, sequence[start:].tolist(), start, sampling)
