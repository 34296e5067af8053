"""The target model over a session: a decoder that judges, and that extends by drafted tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from foundryrt.errors import UsageError
from foundryrt.protocols import GraphsLike
from parse_runtime.engine.batch import Batch, Chunk
from parse_runtime.engine.packing import VERIFY, Due, holding, shared_by
from parse_runtime.engine.protocols import Logits, Prefilled, Verdict, Verification
from parse_runtime.graphs.decoder import GraphDecoder, parts_of
from parse_runtime.graphs.inputs import batch_inputs, mixed_inputs
from parse_runtime.graphs.proposer import DraftProposer
from parse_runtime.graphs.results import floats, prefilled
from parse_runtime.graphs.verifying import concluded, found_by, verify_inputs
from parse_runtime.signature.evidence import SCOPES, STATISTICS, carry
from parse_runtime.signature.passes import ModelSignature, PassSignature
from parse_runtime.signature.plan import verified
from parse_runtime.signature.sizes import SharedSize, beside


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
        self.mixed = sizes.mixed
        self._mixed = {size: signature.mixed(*size) for size in sizes.mixed}
        self._verify = {size: signature.verify(*size) for size in sizes.verify}
        self.shared = sizes.shared
        self._shared = {size: signature.verify(*size) for size in sizes.shared}
        batches = sizes.batches if sizes.tree else ()
        self._extend = {batch: signature.extend(batch) for batch in batches}

    def mixes(self, chunks: Sequence[Chunk], count: int) -> bool:
        """Not where the pass has no graph yet."""
        signature = self._mixed_for(chunks, count)
        return signature is not None and self._is_ready(signature, soon=True)

    def begin_mixed(self, chunks: Sequence[Chunk], batch: Batch) -> Prefilled:
        """In the smallest pass that holds both."""
        signature = self._mixed_for(chunks, len(batch))
        assert signature is not None
        self._note(batch)
        # Answers may turn out to have ended before these tokens.
        self.row_tokens[np.asarray(batch.slots), np.asarray(batch.positions)] = -1
        self._take(chunks)
        values = mixed_inputs(signature, chunks, batch, self.max_len)
        self._write_inputs(signature, values)
        self._flight = self._fly(signature, batch)
        return partial(prefilled, self._graph(signature), chunks, signature.key["batch"])

    def _mixed_for(self, chunks: Sequence[Chunk], count: int) -> PassSignature | None:
        if not (sizes := beside(self.mixed, count)):
            return None
        with suppress(ValueError):  # there is none for so many rows
            rows = [len(chunk.tokens) for chunk in chunks]
            wanted = holding(rows, [size.prompt_rows for size in sizes])
            return next(self._mixed[size] for size in sizes if size.prompt_rows == wanted)
        return None

    def extend(self, batch: Batch) -> list[list[int] | Logits | None]:
        """The drafted tokens that decoding would have given, and the one after them.

        Decode passes give the logits of those that are to be scored.
        """
        if not self._extend:
            return self._plain(batch)
        places = range(len(batch))
        scored = [i for i in places if batch.slots[i] in batch.scored]
        others = [i for i in places if batch.slots[i] not in batch.scored]
        found: dict[int, list[int] | Logits | None] = {}
        if scored:
            found.update(zip(scored, self._plain(batch.only(scored)), strict=True))
        if others:
            found.update(zip(others, self._speculated(batch.only(others)), strict=True))
        return [found[i] for i in places]

    def _plain(self, batch: Batch) -> list[list[int] | Logits | None]:
        """One token a sequence, or its logits, by decode passes."""
        wanted = batch.scored.intersection(batch.slots)
        if not wanted:
            return [token if token is None else [token] for token in self._step(batch, True)]
        result: list[list[int] | Logits | None] = []
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
        self._write_inputs(signature, {"roots": roots, **batch_inputs(batch, size)})
        graph = self._launch(signature)
        accepted, after = graph.read("accepted"), graph.read("token")
        return [after[i, : accepted[i] + 1].tolist() for i in range(count)]

    def verify(self, slot: int, verification: Verification) -> Verdict:
        """One pass where a captured one is large enough, else several, each with its share."""
        self._prepare({slot: verification})
        found, carried = [], np.zeros((len(SCOPES), len(STATISTICS)), np.float32)
        for part in self._parts(verification):
            size = self._own(part)
            assert size is not None
            found += self._pass(self._verify[size], {slot: part}, carried)
            if (evidence := found[-1].evidence) is not None:
                carried = carry(evidence, len(part.cuts))
        return concluded(verification, found)

    def shares(self, verification: Verification) -> list[SharedSize]:
        """Those in which its verdicts are what they are in a pass of its own.

        With a score that is where each draft has as much evidence: the target is asked about a
        share of the tokens that there could be.
        """
        own = self._own(verification) if self._shared else None
        if own is None:
            return []
        by, cuts = self._signature.sizes.scored_by, len(verification.cuts)
        return [
            size
            for size in self._shared
            if size.rows >= verification.rows and size.cuts >= cuts
            and (not verification.score or by(*size) == by(*own))
        ]  # fmt: skip

    def ready_to_verify(self, wanted: Mapping[int, Verification]) -> bool:
        """Whether the pass of all, or those of each, have graphs; else they are made next."""
        if len(wanted) > 1:
            with suppress(ValueError):
                return self._is_ready(self._together(wanted), soon=True)
        fitting = (one for one in wanted.values() if self._may_ask(one))
        parts = {self._own(part) for one in fitting for part in self._parts(one)}
        return all([self._is_ready(self._verify[size], soon=True) for size in parts if size])

    def _may_ask(self, one: Verification) -> bool:
        """Whether some pass takes its question."""
        return len(one.suffix) <= list(self._verify)[-1][0]

    def verify_pass(self, wanted: Mapping[int, Verification]) -> list[Verdict]:
        """In the smallest pass that takes them; ValueError where there is none."""
        signature = self._together(wanted)
        self._prepare(wanted)
        found = self._pass(signature, wanted)
        return [concluded(one, [said]) for one, said in zip(wanted.values(), found, strict=True)]

    def _together(self, wanted: Mapping[int, Verification]) -> PassSignature:
        due = {slot: Due(VERIFY, one.rows, self.shares(one)) for slot, one in wanted.items()}
        return self._shared[shared_by(due)]

    def _prepare(self, wanted: Mapping[int, Verification]) -> None:
        """See that they can be judged, by what the bundle has."""
        for slot, one in wanted.items():
            self._check(one.start + len(one.shared_prefix), [slot])
            self._reserve([slot], [one.start], one.held - one.start)
            if not self._may_ask(one):
                raise UsageError(
                    f"the judge's question has {len(one.suffix)} tokens, the largest verify pass"
                    f" {list(self._verify)[-1][0]} rows: capture with a larger --verify"
                )
            if one.score and not self._signature.sizes.scored:
                raise UsageError(
                    "the bundle's passes have no evidence: capture it again, without --evidence 0"
                )
        self._make_void(wanted)

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
                most = start + rows + (not whole.suffix)
                until = min(most, max(whole.drafted, start + 1) + scored, *ends[1:2], end)
            tokens = whole.shared_prefix[start - whole.start : until - whole.start]
            yield replace(whole, shared_prefix=tokens, start=start, cuts=left[:count])
            done, left = until, left[count:]

    def _fitting(
        self, whole: Verification, start: int, until: int, cuts: int
    ) -> tuple[int, int] | None:
        """The smallest pass for so many cuts and the tokens from `start` to `until`."""
        rows = verified(until - start, whole.suffix) + cuts * len(whole.suffix)
        scored = until - max(whole.drafted, start + 1) if whole.score else 0
        by = self._signature.sizes.scored_by
        return next(
            (v for v in self._verify if v[0] >= rows and v[1] >= cuts and by(*v) >= scored), None
        )

    def _own(self, part: Verification) -> tuple[int, int] | None:
        """The smallest pass for all of it."""
        return self._fitting(part, part.start, part.start + len(part.shared_prefix), len(part.cuts))

    def _pass(
        self, signature: PassSignature, wanted: Mapping[int, Verification],
        carried: NDArray[np.float32] | None = None,
    ) -> list[Verdict]:  # fmt: skip
        for slot, one in wanted.items():
            held = one.held - one.start
            self.row_tokens[slot, one.start : one.held] = one.shared_prefix[:held]
        self._write_inputs(
            signature, verify_inputs(signature, self._signature.sizes, wanted, carried)
        )
        return found_by(self._launch(signature), wanted)
