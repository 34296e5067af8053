"""The target model over a session: verification, and advancing by drafted tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from foundryrt.errors import UsageError
from parse_runtime.engine.judge import SELECTIONS, selection
from parse_runtime.engine.protocols import Sampling, Verdict, Verification
from parse_runtime.graphs.decoder import GraphDecoder, Session, pieces
from parse_runtime.graphs.proposer import DraftProposer
from parse_runtime.signature.plan import verification


class GraphTarget(GraphDecoder):
    """A `roles.Target`. Where the bundle has extend passes, `advance` uses them.

    Their drafts come from an EAGLE-3 head inside the graphs, or from `proposer`.
    """

    def __init__(
        self,
        session: Session,
        name: str,
        max_len: int,
        slots: int,
        proposer: DraftProposer | None = None,
    ) -> None:
        super().__init__(session, name, max_len, slots)
        self._proposer = proposer
        keys = [key for graph, key in session.graphs if graph == f"{name}.verify"]
        self._verify = sorted((int(key["len"]), int(key["cuts"])) for key in keys)
        self._extend = self._sizes("extend", "batch")
        self._rows = next(iter(self._sizes("extend", "len")), 0)

    def _before_piece(self, inputs: str, tokens: Sequence[int], end: int) -> None:
        if self._extend and self._proposer is None:
            following = tokens[end] if end < len(tokens) else -1
            self._write(f"{inputs}.next", np.asarray([following], np.int64))

    def advance(
        self,
        slots: Sequence[int],
        tokens: Sequence[int],
        positions: Sequence[int],
        samplings: Sequence[Sampling],
    ) -> list[list[int]]:
        """The drafted tokens that decoding would have given, and the one after them."""
        if not self._extend:
            return [[token] for token in self.decode(slots, tokens, positions, samplings)]
        self._hold(slots, tokens, positions)
        if self._proposer:
            drafts = self._proposer.propose(self.held, slots, positions, samplings)
            self._session.write(f"{self._name}.tree", drafts)
        result: list[list[int]] = []
        for part, batch in pieces(len(slots), self._extend):
            result += self._extend_batch(
                batch, slots[part], tokens[part], positions[part], samplings[part]
            )
        for slot, position, found in zip(slots, positions, result, strict=True):
            end = min(position + len(found), self.max_len)
            self.held[slot, position + 1 : end] = found[: end - position - 1]
        return result

    def _extend_batch(
        self,
        batch: int,
        slots: Sequence[int],
        tokens: Sequence[int],
        positions: Sequence[int],
        samplings: Sequence[Sampling],
    ) -> list[list[int]]:
        count = len(slots)
        roots = np.zeros((2, batch), np.int64)
        roots[1] = self.max_len
        roots[:, :count] = tokens, positions
        self._write(f"extend.{batch}.roots", roots)
        self._write_slots(f"extend.{batch}", slots, samplings, batch)
        graph = self._launch("extend", batch=batch, len=self._rows)
        accepted, after = graph.read("accepted"), graph.read("token")
        return [after[i, : accepted[i] + 1].tolist() for i in range(count)]

    def verify(self, slot: int, wanted: Verification) -> Verdict:
        """One pass where a captured one is large enough; otherwise the trunk is brought in
        before, and the cuts are spread over several passes.
        """
        trunk, suffix, cuts = wanted.trunk, wanted.suffix, wanted.cuts
        choose, end = selection(wanted.rule), wanted.start + len(trunk)
        self._check(end, [slot])
        longest, most = self._verify[-1]
        if len(suffix) > longest:
            raise UsageError(
                f"the judge's question has {len(suffix)} tokens, the largest verify pass "
                f"{longest} rows: capture with a larger --verify"
            )
        rows = len(trunk) + len(suffix) * len(cuts)
        fitting = next((v for v in self._verify if v[0] >= rows and v[1] >= len(cuts)), None)
        if fitting:
            return self._one_pass(fitting, slot, wanted)
        if trunk:
            self.prefill(slot, trunk, wanted.start, Sampling())
        share = min(most, longest // len(suffix))
        verdicts: list[float] = []
        for begin in range(0, len(cuts), share):
            some = replace(wanted, trunk=[], start=end, cuts=cuts[begin : begin + share])
            verdicts += self._one_pass(self._verify[-1], slot, some).verdicts
        # As the graphs compare.
        return Verdict(choose(cuts, verdicts, float(np.float32(wanted.threshold))), verdicts)

    def _one_pass(self, size: tuple[int, int], slot: int, wanted: Verification) -> Verdict:
        length, most = size
        inputs = f"verify.{length}x{most}"
        trunk, start, cuts = wanted.trunk, wanted.start, wanted.cuts
        plan, ends = verification(trunk, start, wanted.suffix, cuts, length, self.max_len)
        last_rows = np.zeros(most, np.int64)
        last_rows[: len(ends)] = ends
        self.held[slot, start : start + len(trunk)] = trunk
        self._write("slot", np.asarray([slot], np.int64))
        self._write(f"{inputs}.plan", plan)
        self._write(f"{inputs}.wanted", last_rows)
        self._write(f"{inputs}.threshold", np.asarray([wanted.threshold], np.float32))
        number = list(SELECTIONS).index(wanted.rule)
        self._write(f"{inputs}.rule", np.asarray([len(cuts), number], np.int64))
        graph = self._launch("verify", len=length, cuts=most)
        kept = int(graph.read("kept")[0])
        verdicts = [float(verdict) for verdict in graph.read("verdicts")[: len(cuts)]]
        return Verdict(cuts[kept - 1] if kept else 0, verdicts)


def open_models(session: Any) -> tuple[GraphTarget, GraphDecoder]:
    """Target and draft model of a bundle."""
    settings = session.settings
    size = (settings["max_len"], settings["slots"])
    drafter = GraphDecoder(session, "draft", *size)
    speculates = settings["speculate"] == "draft"
    proposer = DraftProposer(drafter, settings["eagle_depth"]) if speculates else None
    return GraphTarget(session, "target", *size, proposer), drafter
