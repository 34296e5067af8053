"""The signature of each pass: its graph, its inputs and its outputs.

A capture registers inputs and names outputs by it, and a session's models write and read by it.
Tensors are named `<model>.<pass>.<size>.<input>`, as in `target.prefill.128.plan`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parse_runtime.signature.evidence import EVIDENCE, LOG_ODDS, SCOPES, STATISTICS
from parse_runtime.signature.plan import ALIGNMENT, padded, padded_scored
from parse_runtime.signature.sizes import PassSizes

VOCABULARY = -1
"""A size of an output: the model's own vocabulary."""
MODEL_DTYPE = "model"
"""A dtype of an output: that of the model's weights."""

Contents = NDArray[np.int64] | NDArray[np.int32] | NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Input:
    """A tensor that is written before a launch; `initial` is what it holds until then.

    With the initial inputs a pass computes padding alone. A `state` is an input that graphs
    change, too.
    """

    name: str
    initial: Contents
    role: str = "input"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.initial.shape

    @property
    def dtype(self) -> str:
        return self.initial.dtype.name


@dataclass(frozen=True)
class Output:
    """A result of a launch; a size may be VOCABULARY, the dtype MODEL_DTYPE."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class PassSignature:
    """One pass of one model; `inputs` go by their last name (`plan`), outputs by their only one."""

    graph: str
    key: Mapping[str, int]
    inputs: Mapping[str, Input]
    outputs: Mapping[str, Output]


@dataclass(frozen=True)
class ModelSignature:
    """All passes of a model.

    With `head`, an EAGLE-3 head drafts inside its passes. With `run_ahead`, a decode pass ends by
    moving its `plan` on to the tokens that it sampled (`parse_runtime.kernels.sample`).
    """

    model: str
    sizes: PassSizes
    head: bool = False
    run_ahead: bool = False

    def tensor(self, name: str) -> str:
        """The name in a bundle of a tensor that is no pass's own."""
        return f"{self.model}.{name}"

    @property
    def slot(self) -> Input:
        """[1], the slot that verify passes of one draft are about."""
        return Input(self.tensor("slot"), np.zeros(1, np.int64))

    @property
    def tables(self) -> Input:
        """[slots, blocks of a slot]: in which block of the caches each of its rows is.

        Block 0 stands for none: it takes the rows of padding. Those of suffixes follow.
        """
        sizes = self.sizes
        tables = np.zeros((sizes.slots, sizes.sequence_blocks + sizes.fixed_blocks - 1), np.int32)
        tables[:, sizes.sequence_blocks :] = np.arange(1, sizes.fixed_blocks)
        return Input(self.tensor("tables"), tables, "state")

    @property
    def drafts(self) -> Input:
        """[slots + 1, 3, tree rows], the draft trees that extend passes check, by slot.

        They hold tokens, parents and ancestor bits; the last tree is for the padding of batches.
        A head writes them inside the graphs.
        """
        assert self.sizes.tree is not None
        chains = self.sizes.tree.chains(self.sizes.slots + 1)
        return Input(self.tensor("tree"), chains, "state")

    @property
    def likelihood(self) -> Input:
        """[slots, max_len + 1]: of each row, the log-probability of the token sampled after it.

        A draft model's passes write it, the target's verify passes read it.
        """
        shape = (self.sizes.slots, self.sizes.max_len + 1)
        return Input(self.tensor("likelihood"), np.zeros(shape, np.float32), "state")

    def prefill(self, length: int) -> PassSignature:
        """`plan` of `length` rows of several prompts, which end at the rows `wanted` [prompts].

        `slots` has the slot of each ALIGNMENT rows in turn; with one prompt, [1], of all rows.
        `next` [prompts], for the head, has the tokens after the wanted rows, and -1 where it is to
        be the sampled one. Where there are fewer prompts, the last is repeated.
        """
        sizes = self.sizes
        count = dict(sizes.prefills)[length]
        inputs = {
            "plan": self._plan(length), "wanted": np.zeros(count, np.int64), **_sampling(count)
        }  # fmt: skip
        key = {"len": length}
        if sizes.prompts:
            inputs["slots"] = _tiles(length, count)
            key["prompts"] = count
        if self.head:
            inputs["next"] = np.full(count, -1, np.int64)
        outputs = {
            "token": Output((count,), "int64"),
            "logits": Output((count, VOCABULARY), MODEL_DTYPE),
        }
        shared = {} if sizes.prompts else {"slots": self.slot}
        return self._pass("prefill", f"{length}", key, inputs, outputs, shared)

    def decode(self, batch: int) -> PassSignature:
        """A row of each of the `slots`.

        With `run_ahead`, launches in turn are steps of the same sequences, without other inputs.
        """
        inputs = {
            "plan": self._plan(batch), **_sampling(batch), "slots": np.arange(batch, dtype=np.int64)
        }  # fmt: skip
        outputs = {
            "token": Output((batch,), "int64"),
            "logits": Output((batch, VOCABULARY), MODEL_DTYPE),
        }
        changed = {"plan"} if self.run_ahead else ()
        return self._pass("decode", f"{batch}", {"batch": batch}, inputs, outputs, changed=changed)

    def mixed(self, length: int, prompts: int, batch: int) -> PassSignature:
        """A row of each of the slots `steps` [batch], then the rows of a `prefill`.

        `plan` [5, batch + length] has both, and so have sampling and outputs [batch + prompts];
        `wanted` counts the prompts' rows alone.
        """
        inputs: dict[str, Contents] = {
            "plan": self._plan(batch + length), "steps": np.arange(batch, dtype=np.int64),
            "wanted": np.zeros(prompts, np.int64), "slots": _tiles(length, prompts),
            **_sampling(batch + prompts),
        }  # fmt: skip
        outputs = {
            "token": Output((batch + prompts,), "int64"),
            "logits": Output((batch + prompts, VOCABULARY), MODEL_DTYPE),
        }
        key = {"len": length, "prompts": prompts, "batch": batch}
        return self._pass("mixed", f"{length}x{batch}", key, inputs, outputs)

    def extend(self, batch: int) -> PassSignature:
        """The draft trees of the `slots`; `roots` [2, batch] are the last tokens and positions.

        `accepted` counts drafted tokens, `token` has them and the one that follows.
        """
        tree = self.sizes.tree
        assert tree is not None
        roots = np.zeros((2, batch), np.int64)
        roots[1] = self.sizes.max_len
        inputs = {"roots": roots, "slots": np.zeros(batch, np.int64), **_sampling(batch)}
        outputs = {
            "accepted": Output((batch,), "int64"),
            "token": Output((batch, tree.depth + 1), "int64"),
        }
        key = {"batch": batch, "len": tree.rows}
        return self._pass("extend", f"{batch}", key, inputs, outputs)

    def verify(self, length: int, cuts: int, drafts: int = 1) -> PassSignature:
        """`plan` of `length` rows, the last rows of the suffixes as `wanted`.

        `rule` is how many of the cuts are meant, and the number of a `SelectionRule`. `kept` is
        the number, from 1, of the cut that it selects, 0 for none. `slots` has the slot, [1].

        Where the size has drafted tokens to score: `score` are the weights and offset of verdicts
        (`signature/evidence.py`), `scored` [4, tokens] the row before each drafted token, the
        token, the number from 0 of the cut that ends its segment, and the draft model's row before
        it; `carried` [scopes, statistics] is what an earlier pass found of the draft, of the first
        segment and of numbers.

        With several `drafts` `slots` has the slot of each ALIGNMENT rows in turn, and all else has
        a size `drafts`: before its others, but in `rule` and `scored` behind the first. `cuts` are
        those of each draft, and a draft model's row counts from the first slot's first.
        """
        each = (drafts,) if drafts > 1 else ()
        inputs: dict[str, Contents] = {
            "plan": self._plan(length),
            "wanted": np.zeros((*each, cuts), np.int64),
            "rule": np.zeros((2, *each), np.int64),
            "threshold": np.zeros(drafts, np.float32),
        }
        outputs = {
            "verdicts": Output((*each, cuts), "float32"),
            "kept": Output((drafts,), "int64"),
            "logits": Output((*each, cuts, VOCABULARY), "float32"),
        }
        if scored := self.sizes.scored_by(length, cuts, drafts):
            one = padded_scored(scored, cuts, self.sizes.max_len)
            weights = LOG_ODDS.packed
            inputs["score"] = np.broadcast_to(weights, (*each, len(weights))).copy()
            inputs["scored"] = np.stack([one] * drafts, 1) if each else one
            inputs["carried"] = np.zeros((*each, len(SCOPES), len(STATISTICS)), np.float32)
            outputs["evidence"] = Output((*each, cuts, len(EVIDENCE)), "float32")
        size, key, shared = f"{length}x{cuts}", {"len": length, "cuts": cuts}, {"slots": self.slot}
        if each:
            size, key["drafts"], shared = f"{size}x{drafts}", drafts, {}
            inputs["slots"] = np.zeros(length // ALIGNMENT, np.int64)
        return self._pass("verify", size, key, inputs, outputs, shared)

    def _plan(self, length: int) -> NDArray[np.int64]:
        return padded(length, self.sizes.max_len)

    def _pass(
        self, name: str, size: str, key: Mapping[str, int], inputs: Mapping[str, Contents],
        outputs: Mapping[str, Output], shared: Mapping[str, Input] | None = None,
        changed: Collection[str] = (),
    ) -> PassSignature:  # fmt: skip
        """`shared` inputs are other passes', too; `changed` names those that the graph changes."""
        found = dict(shared or {})
        for short, initial in inputs.items():
            # No state: what bundles of one model keep there, whatever their passes, is shared.
            role = "output" if short in changed else "input"
            found[short] = Input(self.tensor(f"{name}.{size}.{short}"), initial, role)
        return PassSignature(self.tensor(name), key, found, outputs)


def _tiles(length: int, prompts: int) -> NDArray[np.int64]:
    """The slot of each ALIGNMENT rows; of one prompt, that of all rows."""
    return np.zeros(length // ALIGNMENT if prompts > 1 else 1, np.int64)


def _sampling(count: int) -> dict[str, Contents]:
    """`sampling` [2, count], temperatures and top-p, and `seeds` [count]."""
    values = np.zeros((2, count), np.float32)
    values[1] = 1
    return {"sampling": values, "seeds": np.zeros(count, np.int64)}
