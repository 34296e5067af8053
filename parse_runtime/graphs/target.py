"""The target model over a session: a decoder that judges, and that extends by drafted tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from foundryrt.errors import UsageError
from foundryrt.protocols import GraphsLike
from parse_runtime.engine.batch import Batch
from parse_runtime.engine.judge import SELECTIONS, whole_first
from parse_runtime.engine.protocols import Logits, Verdict, Verification
from parse_runtime.graphs.decoder import GraphDecoder, floats, parts_of
from parse_runtime.graphs.proposer import DraftProposer
from parse_runtime.signature.evidence import LOG_ODDS, SCOPES, STATISTICS, Evidence, carry
from parse_runtime.signature.passes import ModelSignature
from parse_runtime.signature.plan import padded_scored, scored_tokens, verification_plan


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
        if sizes.tree:
            # A head keeps what it drafts behind the path that was accepted.
            deeper = sizes.tree.depth if signature.head else 0
            self.reach = max(self.reach, sizes.tree.rows + deeper)
        self.proposes = sizes.tree.depth if sizes.tree and proposer else 0
        self._verify = {size: signature.verify(*size) for size in sizes.verify}
        batches = sizes.batches if sizes.tree else ()
        self._extend = {batch: signature.extend(batch) for batch in batches}

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
        wanted = batch.scored.intersection(batch.slots)
        if not wanted:
            return [[token] for token in self.decode(batch)]
        result: list[list[int] | Logits] = []
        for some, graph in self._decoded(batch):
            tokens = graph.read("token")
            # Large, and read only where somebody asks for them.
            logits = graph.read("logits") if wanted.intersection(some.slots) else tokens
            for i, slot in enumerate(some.slots):
                result.append(floats(logits[i]) if slot in wanted else [int(tokens[i])])
        return result

    def _speculated(self, batch: Batch) -> list[list[int]]:
        self._note(batch)
        self._reserve(batch.slots, batch.positions, self.reach)
        self._flight = None
        if self._proposer:
            drafts = self._proposer.propose(self.row_tokens, batch)
            self._session.write(self._signature.drafts.name, drafts)
        result: list[list[int]] = []
        for part, _ in parts_of(len(batch), list(self._extend)):
            result += self._extend_part(batch[part])
        for slot, position, found in zip(batch.slots, batch.positions, result, strict=True):
            end = min(position + len(found), self.max_len)
            self.row_tokens[slot, position + 1 : end] = found[: end - position - 1]
        return result

    def _extend_part(self, batch: Batch) -> list[list[int]]:
        size, signature = self._sized(self._extend, len(batch))
        count = len(batch)
        roots = np.zeros((2, size), np.int64)
        roots[1] = self.max_len
        roots[:, :count] = batch.tokens, batch.positions
        self._write(signature.inputs["roots"], roots)
        self._write_slots(signature, batch, size)
        graph = self._launch(signature)
        accepted, after = graph.read("accepted"), graph.read("token")
        return [after[i, : accepted[i] + 1].tolist() for i in range(count)]

    def verify(self, slot: int, verification: Verification) -> Verdict:
        """One pass where a captured one is large enough, else several, each with its share."""
        start, prefix = verification.start, verification.shared_prefix
        self._check(start + len(prefix), [slot])
        self._reserve([slot], [start], len(prefix))
        self._make_void([slot])
        longest, suffix = list(self._verify)[-1][0], len(verification.suffix)
        if suffix > longest:
            raise UsageError(
                f"the judge's question has {suffix} tokens, the largest verify pass {longest} "
                "rows: capture with a larger --verify"
            )
        if verification.score and not self._signature.sizes.scored:
            raise UsageError(
                "the bundle's passes have no evidence: capture it again, without --evidence 0"
            )
        found, carried = [], np.zeros((len(SCOPES), len(STATISTICS)), np.float32)
        for part in self._parts(verification):
            found.append(self._pass(slot, part, carried))
            if (evidence := found[-1].evidence) is not None:
                carried = carry(evidence, len(part.cuts))
        evidence = _of_cuts(found)
        whole = verification.score.whole if verification.score else None
        if len(found) == 1 and not whole:
            return replace(found[0], evidence=evidence)
        verdicts = [verdict for one in found for verdict in one.verdicts]
        # As the graphs compare.
        threshold = float(np.float32(verification.threshold))
        if whole:
            assert evidence is not None
            verdicts[-1] = whole.verdict(evidence[-1])
            kept = whole_first(verification.cuts, verdicts, threshold, verification.rule)
        else:
            kept = SELECTIONS[verification.rule](verification.cuts, verdicts, threshold)
        return Verdict(kept, verdicts, evidence)

    def _parts(self, whole: Verification) -> Iterator[Verification]:
        """The verification in parts that fit a pass each, every one going on from the one before.

        The last token before a part is given again: the row before a drafted token must be there.
        """
        done, left = whole.start, list(whole.cuts)
        end = done + len(whole.shared_prefix)
        while left or done < end:
            start = done - 1 if whole.start < done < end else done
            ends = [done, *(max(done, cut) for cut in left)]
            count = len(left)
            while count and not self._fitting(whole, start, ends[count], count):
                count -= 1
            until = ends[count]
            if count == len(left) and self._fitting(whole, start, end, count):
                until = end
            elif not count:
                rows, _ = largest = list(self._verify)[-1]
                scored = self._signature.sizes.scored_by(*largest) if whole.score else rows
                until = min(start + rows, max(whole.drafted, start + 1) + scored, *ends[1:2], end)
            tokens = whole.shared_prefix[start - whole.start : until - whole.start]
            yield replace(whole, shared_prefix=tokens, start=start, cuts=left[:count])
            done, left = until, left[count:]

    def _fitting(
        self, whole: Verification, start: int, until: int, cuts: int
    ) -> tuple[int, int] | None:
        """The smallest pass for so many cuts and the tokens from `start` to `until`."""
        rows = until - start + cuts * len(whole.suffix)
        scored = until - max(whole.drafted, start + 1) if whole.score else 0
        by = self._signature.sizes.scored_by
        return next(
            (v for v in self._verify if v[0] >= rows and v[1] >= cuts and by(*v) >= scored), None
        )

    def _pass(self, slot: int, part: Verification, carried: NDArray[np.float32]) -> Verdict:
        """One pass; its evidence has a row for each cut that the pass could have."""
        prefix, start, cuts = part.shared_prefix, part.start, part.cuts
        size = self._fitting(part, start, start + len(prefix), len(cuts))
        assert size is not None
        length, most = size
        signature = self._verify[size]
        inputs = signature.inputs
        plan, ends = verification_plan(
            prefix, start, part.suffix, cuts, length, self.max_len,
            self._signature.sizes.scratch_row,
        )  # fmt: skip
        last_rows = np.zeros(most, np.int64)
        last_rows[: len(ends)] = ends
        self.row_tokens[slot, start : start + len(prefix)] = prefix
        self._write(inputs["slot"], np.asarray([slot], np.int64))
        self._write(inputs["plan"], plan)
        self._write(inputs["wanted"], last_rows)
        self._write(inputs["threshold"], np.asarray([part.threshold], np.float32))
        self._write(inputs["rule"], np.asarray([len(cuts), part.rule], np.int64))
        if "score" in inputs:
            self._write(inputs["score"], (part.score or LOG_ODDS).packed)
        if part.score:
            padding = padded_scored(self._signature.sizes.scored_by(*size), most, self.max_len)
            scored = scored_tokens(prefix, start, part.drafted, cuts, padding)
            self._write(inputs["scored"], scored)
            self._write(inputs["carried"], carried)
        graph = self._launch(signature)
        kept = int(graph.read("kept")[0])
        verdicts = [float(verdict) for verdict in graph.read("verdicts")[: len(cuts)]]
        evidence = graph.read("evidence") if part.score else None
        return Verdict(cuts[kept - 1] if kept else 0, verdicts, evidence)


def _of_cuts(found: Sequence[Verdict]) -> Evidence | None:
    """The rows that belong to cuts."""
    rows = [one.evidence[: len(one.verdicts)] for one in found if one.evidence is not None]
    return np.concatenate(rows) if rows else None
