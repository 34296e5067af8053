"""A session whose graphs are run late, as on a device, over models that are functions of tokens.

Work is queued, and run in its order when somebody waits for it. A row that nobody wrote must not be
read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parse_runtime.engine.batch import Sampling
from parse_runtime.engine.judge import SELECTIONS
from parse_runtime.signature.passes import ModelSignature, PassSignature
from parse_runtime.signature.plan import ALIGNMENT
from parse_runtime.signature.selection import SelectionRule
from parse_runtime.signature.sizes import BLOCK, PassSizes, SharedSize, mixed_sizes, prompts_of
from tests.unit.parse_fakes import VOCABULARY, Answer

MAX_LEN = 64
PREFILL, VERIFY = (4, 16, 96), ((24, 3), (64, 9))
SHARED = SharedSize(64, 3, 2), SharedSize(192, 9, 3)


class Device:
    """Passes of a target that says `target` and a draft model that says `draft`."""

    def __init__(
        self, target: Answer, draft: Answer, judge: Callable[[list[int]], float], slots: int,
        decode: tuple[int, ...] = (), run_ahead: bool = True, before: Device | None = None,
        packs: bool = True, late: Callable[[str, int], int] = lambda name, size: 0,
        kv_tokens: int | None = None, shared: tuple[SharedSize, ...] = (),
        mixed: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        """`before`: one whose caches are this one's, too, as those of a bundle in its place.

        Without `packs` a prefill takes one slot, as in earlier bundles. `late`: how many answers of
        a graph, of a size, that it is not ready there are. Without `kv_tokens` a bundle of before
        there were tables. `shared`: verify passes of several drafts. `mixed`: batches of steps
        that the target's prefills take along.
        """
        self.settings: dict[str, Any] = {
            "max_len": MAX_LEN, "slots": slots, "eagle": "", "speculate": "", "eagle_depth": 4,
            "stride": 1, "evidence": "0", "run_ahead": run_ahead,
        }  # fmt: skip
        if kv_tokens is not None:
            self.settings["kv_tokens"] = kv_tokens
        self.rows: dict[str, int] = {}
        self.launches: list[str] = []
        self.sizes: list[int] = []
        """Of the launches."""
        self.waited_for: list[tuple[str, int]] = []
        """Graphs that were launched before they were ready, and their sizes."""
        self._late = late
        self.steps_ahead = 0
        """The most decode steps that were launched and not waited for."""
        self.models: list[Model] = []
        self._queue: list[Callable[[], None]] = []
        self._done = 0
        self._unread: list[Readback] = []
        self._tensors: dict[str, NDArray[Any]] = {}
        self._graphs: dict[tuple[str, tuple[tuple[str, int], ...]], Graph] = {}
        sizes: dict[str, Any] = {
            "max_len": MAX_LEN, "slots": slots, "prefill": PREFILL, "decode": decode,
            "prompts": tuple(prompts_of(rows, slots) for rows in PREFILL) if packs else (),
            "kv_tokens": kv_tokens,
        }  # fmt: skip
        taken = mixed_sizes(PREFILL, mixed, slots)
        for name, say, more in (
            ("target", target, {"verify": VERIFY, "shared": shared, "mixed": taken}),
            ("draft", draft, {}),
        ):
            signature = ModelSignature(name, PassSizes(**sizes, **more), run_ahead=run_ahead)
            rows = before.models[len(self.models)].rows if before else None
            tables = signature.tables
            if kv_tokens is not None:
                self._tensors[tables.name] = tables.initial.copy()
            model = Model(say, judge, signature.sizes, rows, self._tensors.get(tables.name))
            self.models.append(model)
            for length in PREFILL:
                self._add(signature.prefill(length), model.prefill)
            for batch in signature.sizes.batches:
                self._add(signature.decode(batch), model.decode if run_ahead else model.waiting)
            for size in signature.sizes.mixed:
                self._add(signature.mixed(*size), model.mixed)
            for size in (*signature.sizes.verify, *signature.sizes.shared):
                self._add(signature.verify(*size), model.verify)

    def _add(self, signature: PassSignature, run: Callable[..., dict[str, Any]]) -> None:
        for found in signature.inputs.values():
            self._tensors.setdefault(found.name, found.initial.copy())
        inputs = {short: found.name for short, found in signature.inputs.items()}
        key = tuple(sorted(signature.key.items()))
        size = next(iter(signature.key.values()))
        late = self._late(signature.graph, size)
        self._graphs[signature.graph, key] = Graph(self, signature.graph, size, inputs, run, late)

    @property
    def graphs(self) -> list[tuple[str, Mapping[str, int | str]]]:
        return [(name, dict(key)) for name, key in self._graphs]

    def graph(self, name: str, **key: int | str) -> Graph:
        return self._graphs[name, tuple(sorted(key.items()))]

    def write(self, name: str, values: NDArray[Any]) -> None:
        held, copied = self._tensors[name], np.array(values)
        assert held.shape == copied.shape and held.dtype == copied.dtype
        self.queue(lambda: held.__setitem__(..., copied))

    def queue(self, work: Callable[[], None]) -> int:
        """How much is queued so far, with this."""
        self._queue.append(work)
        return self._done + len(self._queue)

    def synchronize(self) -> None:
        self.run()

    @property
    def queued(self) -> int:
        return len(self._queue)

    def run(self, until: int | None = None) -> None:
        """What is queued, or as much of it that `until` has been run in all."""
        while self._queue and (until is None or self._done < until):
            self._done += 1
            self._queue.pop(0)()


class Graph:
    def __init__(
        self, device: Device, name: str, size: int, inputs: Mapping[str, str],
        run: Callable[..., dict[str, Any]], late: int,
    ) -> None:  # fmt: skip
        self._device, self._name, self._size, self._run = device, name, size, run
        self._late = late or -1
        self._inputs = {short: device._tensors[name] for short, name in inputs.items()}
        self.outputs: dict[str, NDArray[Any]] = {}

    def ready(self, soon: bool = False) -> bool:
        self._late -= 1
        return self._late < 0

    def launch(self) -> None:
        if self._late >= 0:
            self._device.waited_for.append((self._name, self._size))
        self._device.sizes.append(self._size)
        self._device.launches.append(self._name)
        self._device.queue(self._launch)

    def _launch(self) -> None:
        self.outputs = self._run(**self._inputs)

    def read(self, name: str) -> NDArray[Any]:
        self._device.run()
        return self.outputs[name].copy()

    def readback(self, name: str) -> Readback:
        return Readback(self._device, self, name)

    def write(self, name: str, values: NDArray[Any]) -> None:
        raise NotImplementedError


class Readback:
    overlaps = True

    def __init__(self, device: Device, graph: Graph, name: str) -> None:
        self._device, self._graph, self._name = device, graph, name

    def start(self) -> None:
        def copy() -> None:
            self._found = self._graph.outputs[self._name].copy()

        self._there = self._device.queue(copy)
        unread = self._device._unread
        unread[:] = [other for other in unread if other is not self] + [self]
        self._device.steps_ahead = max(self._device.steps_ahead, len(unread))

    def wait(self) -> NDArray[Any]:
        self._device.run(self._there)
        self._device._unread.remove(self)
        return self._found


class Model:
    """What its passes compute: the rows of its slots hold tokens, -1 where nobody wrote."""

    def __init__(
        self, say: Answer, judge: Callable[[list[int]], float], sizes: PassSizes,
        rows: NDArray[np.int64] | None, tables: NDArray[np.int32] | None,
    ) -> None:  # fmt: skip
        self._say, self._judge, self._tables = say, judge, tables
        shape = (sizes.slots, MAX_LEN)
        if tables is not None:
            shape = (sizes.fixed_blocks + sizes.pool_blocks, BLOCK)
        self.rows = np.full(shape, -1, np.int64) if rows is None else rows

    def _place(self, slot: int, row: int) -> tuple[int, int]:
        if self._tables is None:
            return slot, row
        block = int(self._tables[slot, row // BLOCK])
        assert block
        return block, row % BLOCK

    def _held(self, slot: int, length: int) -> list[int]:
        held = [int(self.rows[self._place(slot, row)]) for row in range(length)]
        assert -1 not in held
        return held

    def _logits(self, held: list[int]) -> NDArray[np.float32]:
        logits = np.zeros(VOCABULARY, np.float32)
        logits[self._say(held, Sampling())] = 9
        return logits

    def prefill(self, slots: Any, plan: Any, wanted: Any, sampling: Any, seeds: Any) -> Any:
        each = plan.shape[1] // len(slots)
        assert len(slots) == 1 or each == ALIGNMENT
        for i, slot in enumerate(slots.tolist()):
            self._put(slot, plan[:, i * each : (i + 1) * each])
        tokens, logits = [], []
        for i, row in enumerate(wanted.tolist()):
            held = self._held(int(slots[row // each]), int(plan[1, row]) + 1)
            tokens.append(self._say(held, _sampling(sampling, seeds, i)))
            logits.append(self._logits(held))
        return {"token": np.asarray(tokens), "logits": np.stack(logits)}

    def mixed(
        self, steps: Any, slots: Any, plan: Any, wanted: Any, sampling: Any, seeds: Any
    ) -> Any:
        count = len(steps)
        step = self.waiting(plan[:, :count], steps, sampling[:, :count], seeds[:count])
        prompts = self.prefill(slots, plan[:, count:], wanted, sampling[:, count:], seeds[count:])
        return {name: np.concatenate((step[name], prompts[name])) for name in step}

    def _put(self, slot: int, plan: NDArray[np.int64]) -> None:
        for token, position, row, _, _ in plan.T.tolist():
            if row < MAX_LEN:
                assert row == position
                self.rows[self._place(slot, row)] = token

    def waiting(self, plan: Any, slots: Any, sampling: Any, seeds: Any) -> Any:
        count = plan.shape[1]
        tokens, logits = np.full(count, -7), np.zeros((count, VOCABULARY), np.float32)
        for i in np.flatnonzero(plan[2] < MAX_LEN).tolist():
            slot = int(slots[i])
            self._put(slot, plan[:, i : i + 1])
            assert plan[3, i] == plan[4, i] + 1 == plan[1, i] + 1
            held = self._held(slot, int(plan[3, i]))
            tokens[i], logits[i] = (
                self._say(held, _sampling(sampling, seeds, i)),
                self._logits(held),
            )
        return {"token": tokens, "logits": logits}

    def decode(self, plan: Any, slots: Any, sampling: Any, seeds: Any) -> Any:
        found = self.waiting(plan, slots, sampling, seeds)
        going = plan[2] < MAX_LEN
        plan[0] = np.where(going, found["token"], plan[0])
        plan[1:] += going
        return found

    def verify(self, slots: Any, plan: Any, wanted: Any, rule: Any, threshold: Any) -> Any:
        each = plan.shape[1] // len(slots)
        for i, slot in enumerate(slots.tolist()):
            self._put(slot, plan[:, i * each : (i + 1) * each])
        found, numbers = np.zeros(wanted.shape, np.float32), []
        drafts = len(threshold)
        rules, verdicts = rule.reshape(2, drafts), found.reshape(drafts, -1)
        for i, ends in enumerate(wanted.reshape(drafts, -1)):
            places = ends[: rules[0, i]]
            cuts = plan[3, places].tolist()
            for j, (cut, row) in enumerate(zip(cuts, places, strict=True)):
                verdicts[i, j] = self._judge(self._held(int(slots[row // each]), cut))
            choose = SELECTIONS[SelectionRule(int(rules[1, i]))]
            kept = choose(cuts, verdicts[i, : len(cuts)].tolist(), threshold[i])
            numbers.append(cuts.index(kept) + 1 if kept else 0)
        return {"verdicts": found, "kept": np.asarray(numbers)}


def _sampling(values: NDArray[np.float32], seeds: NDArray[np.int64], row: int) -> Sampling:
    return Sampling(float(values[0, row]), float(values[1, row]), int(seeds[row]))
