"""Our server over passes that compute nothing: token t is followed by t + 1, as `load.py` expects.

Run by its path, with the checkout that is to serve in PYTHONPATH. Arguments: a folder of
`text_files.py`, slots, and the seconds of a step, which pass as a device's do: the next step begins
when the last has ended, while the host is at work. Prefills take none.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

from parse_runtime.engine.batch import Batch, Chunk
from parse_runtime.engine.engine import Engine
from parse_runtime.engine.prompts import Prompts, TextFormat
from parse_runtime.engine.protocols import Prefilled, Verdict, Verification
from parse_runtime.engine.rules import Rules
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.engine.tables import Tables
from parse_runtime.serve import Serving
from parse_runtime.serve.app import Service
from parse_runtime.serve.served import Served
from parse_runtime.serve.server import answer, listen
from parse_runtime.signature.passes import ModelSignature
from parse_runtime.signature.sizes import MixedSize, PassSizes, PrefillSize, SharedSize
from parse_runtime.text.chat import Chat
from parse_runtime.text.tokenizer import Tokenizer
from parse_runtime.text.translation import SameTokens


class Passes:
    """A target and its own draft model."""

    max_len = 512
    prefills = (PrefillSize(2048, 64),)
    reach = 1
    proposes = 0
    shared: tuple[SharedSize, ...] = ()
    mixed: tuple[MixedSize, ...] = ()

    def __init__(self, slots: int, step: float) -> None:
        self.slots, self._step = slots, step
        self.tables = Tables(
            ModelSignature("stub", PassSizes(max_len=self.max_len, slots=slots, kv_tokens=0))
        )
        self._begun: float | None = None
        """When the step that was launched ahead began."""

    def hold(self, slot: int, tokens: Sequence[int]) -> None:
        pass

    def forget(self, slot: int) -> None:
        self.tables.release(slot)

    def ready(self, chunks: Sequence[Chunk]) -> bool:
        return True

    def overlaps(self, chunks: Sequence[Chunk]) -> bool:
        return True

    def begin_prefill(self, chunks: Sequence[Chunk]) -> Prefilled:
        return lambda: [c.tokens[-1] + 1 if c.following is None else None for c in chunks]

    def mixes(self, chunks: Sequence[Chunk], count: int) -> bool:
        return False

    def begin_mixed(self, chunks: Sequence[Chunk], batch: Batch) -> Prefilled:
        raise NotImplementedError

    def decode(self, batch: Batch) -> list[int]:
        return [token + 1 for token in batch.tokens]

    def extend(self, batch: Batch) -> list[list[int]]:
        if self._step:
            now = time.perf_counter()
            end = (now if self._begun is None else self._begun) + self._step
            self._begun = max(end, now) if batch.ahead else None
            if end > now:
                time.sleep(end - now)
        return [[token + 1] for token in batch.tokens]

    def verify(self, slot: int, verification: Verification) -> Verdict:
        raise NotImplementedError

    def shares(self, verification: Verification) -> list[SharedSize]:
        raise NotImplementedError

    def ready_to_verify(self, wanted: Mapping[int, Verification]) -> bool:
        raise NotImplementedError

    def verify_pass(self, wanted: Mapping[int, Verification]) -> list[Verdict]:
        raise NotImplementedError


class Session(SimpleNamespace):
    """Whose graphs are ready."""

    graphs = ("stub",)
    digest = "0" * 64
    followers = None

    def ready(self) -> int:
        return len(self.graphs)

    def wait(self, progress: object = None) -> None:
        pass


def main(folder: Path, slots: int, step: float) -> None:
    tokenizer = Tokenizer.from_json((folder / "tokenizer.json").read_text())
    template = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    text = TextFormat(tokenizer, Chat(template, {}, (0,)))
    passes = Passes(slots, step)
    rules = Rules(max_rounds=0)
    loaded = SimpleNamespace(
        target=passes, draft=passes, captured=rules, rules=rules,
        prompts=Prompts(text, text, SameTokens(frozenset({0}))),
    )  # fmt: skip
    options = Serving(port=0, connections=4096, queue=4096)
    engine = Engine(Scheduler(passes, passes, options.prefill_rows), options.queue)
    service = Service(Served("model", engine, loaded, Session()))
    answer(service, listen(options), options)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
