"""The target model over a session: a decoder that judges, and that extends by drafted tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundryrt.errors import UsageError
from foundryrt.protocols import GraphsLike
from parse_runtime.engine.batch import Batch, Sampling
from parse_runtime.engine.judge import SELECTIONS
from parse_runtime.engine.protocols import Logits, Verdict, Verification
from parse_runtime.graphs.decoder import GraphDecoder, chunks
from parse_runtime.graphs.proposer import DraftProposer
from parse_runtime.signature.passes import ModelSignature
from parse_runtime.signature.plan import verification_plan


class GraphTarget(GraphDecoder):
    """A `parse_runtime.engine.protocols.Target`; `extend` uses extend passes where there are any.

    Their drafts come from an EAGLE-3 head inside the graphs, or from `proposer`.
    """

    def __init__(
        self,
        session: GraphsLike,
        signature: ModelSignature,
        proposer: DraftProposer | None = None,
    ) -> None:
        super().__init__(session, signature)
        self._proposer = proposer
        sizes = signature.sizes
        self._verify = {size: signature.verify(*size) for size in sizes.verify}
        batches = sizes.batches if sizes.tree else ()
        self._extend = {batch: signature.extend(batch) for batch in batches}

    def prefill_logits(self, slot: int, tokens: Sequence[int], start: int) -> Logits:
        """As `prefill`, but the logits after the last token, float32 [vocabulary]."""
        return _floats(self._prefilled(slot, tokens, start, Sampling()).read("logits")[0])

    def extend(self, batch: Batch) -> list[list[int] | Logits]:
        """The drafted tokens that decoding would have given, and the one after them.

        Decode passes give the logits of those that are to be scored.
        """
        if not self._extend:
            return self._plain(batch)
        places = range(len(batch))
        scored = [i for i in places if batch.slots[i] in batch.scored]
        others = [i for i in places if batch.slots[i] not in batch.scored]
        found: dict[int, list[int] | Logits] = {}
        if scored:
            found.update(zip(scored, self._plain(batch.only(scored)), strict=True))
        if others:
            found.update(zip(others, self._speculated(batch.only(others)), strict=True))
        return [found[i] for i in places]

    def _plain(self, batch: Batch) -> list[list[int] | Logits]:
        """One token a sequence, or its logits, by decode passes."""
        result: list[list[int] | Logits] = []
        for some, graph in self._decoded(batch):
            tokens = graph.read("token")
            # Large, and read only where somebody asks for them.
            wanted = some.scored.intersection(some.slots)
            logits = graph.read("logits") if wanted else tokens
            for i, slot in enumerate(some.slots):
                result.append(_floats(logits[i]) if slot in wanted else [int(tokens[i])])
        return result

    def _speculated(self, batch: Batch) -> list[list[int]]:
        self._note(batch)
        if self._proposer:
            drafts = self._proposer.propose(self.row_tokens, batch)
            self._session.write(self._signature.drafts.name, drafts)
        result: list[list[int]] = []
        for part, size in chunks(len(batch), list(self._extend)):
            result += self._extend_part(size, batch[part])
        for slot, position, found in zip(batch.slots, batch.positions, result, strict=True):
            end = min(position + len(found), self.max_len)
            self.row_tokens[slot, position + 1 : end] = found[: end - position - 1]
        return result

    def _extend_part(self, size: int, batch: Batch) -> list[list[int]]:
        signature, count = self._extend[size], len(batch)
        roots = np.zeros((2, size), np.int64)
        roots[1] = self.max_len
        roots[:, :count] = batch.tokens, batch.positions
        self._write(signature.inputs["roots"], roots)
        self._write_slots(signature, batch, size)
        graph = self._launch(signature)
        accepted, after = graph.read("accepted"), graph.read("token")
        return [after[i, : accepted[i] + 1].tolist() for i in range(count)]

    def verify(self, slot: int, verification: Verification) -> Verdict:
        """One pass where a captured one is large enough; otherwise the shared prefix is brought
        in before, and the cuts are spread over several passes.
        """
        prefix, suffix, cuts = verification.shared_prefix, verification.suffix, verification.cuts
        end = verification.start + len(prefix)
        self._check(end, [slot])
        largest = list(self._verify)[-1]
        longest, most = largest
        if len(suffix) > longest:
            raise UsageError(
                f"the judge's question has {len(suffix)} tokens, the largest verify pass "
                f"{longest} rows: capture with a larger --verify"
            )
        rows = len(prefix) + len(suffix) * len(cuts)
        fitting = next((v for v in self._verify if v[0] >= rows and v[1] >= len(cuts)), None)
        if fitting:
            return self._one_pass(fitting, slot, verification)
        if prefix:
            self.prefill(slot, prefix, verification.start, Sampling())
        share = min(most, longest // len(suffix))
        verdicts: list[float] = []
        for begin in range(0, len(cuts), share):
            some = cuts[begin : begin + share]
            part = replace(verification, shared_prefix=[], start=end, cuts=some)
            verdicts += self._one_pass(largest, slot, part).verdicts
        # As the graphs compare.
        threshold = float(np.float32(verification.threshold))
        return Verdict(SELECTIONS[verification.rule](cuts, verdicts, threshold), verdicts)

    def _one_pass(self, size: tuple[int, int], slot: int, verification: Verification) -> Verdict:
        length, most = size
        signature = self._verify[size]
        inputs = signature.inputs
        prefix, start, cuts = verification.shared_prefix, verification.start, verification.cuts
        plan, ends = verification_plan(
            prefix, start, verification.suffix, cuts, length, self.max_len
        )
        last_rows = np.zeros(most, np.int64)
        last_rows[: len(ends)] = ends
        self.row_tokens[slot, start : start + len(prefix)] = prefix
        self._write(self._slot, np.asarray([slot], np.int64))
        self._write(inputs["plan"], plan)
        self._write(inputs["wanted"], last_rows)
        self._write(inputs["threshold"], np.asarray([verification.threshold], np.float32))
        self._write(inputs["rule"], np.asarray([len(cuts), verification.rule], np.int64))
        graph = self._launch(signature)
        kept = int(graph.read("kept")[0])
        verdicts = [float(verdict) for verdict in graph.read("verdicts")[: len(cuts)]]
        return Verdict(cuts[kept - 1] if kept else 0, verdicts)


def _floats(row: NDArray[Any]) -> Logits:
    """Float32 of logits in the model's dtype; bfloat16 is read as its bits."""
    if row.dtype == np.uint16:
        return (row.astype(np.uint32) << 16).view(np.float32)
    return row.astype(np.float32)
