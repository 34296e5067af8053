"""A service over models of a script; as a command, a server of it in a process of its own.

`python -m tests.unit.parse_service PASS_SECONDS --option=value...`: every pass takes so long.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers

from parse_runtime.engine.batch import Batch
from parse_runtime.engine.engine import Engine
from parse_runtime.engine.prompts import Prompts, TextFormat
from parse_runtime.engine.rules import Rules
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.graphs.loading import Loaded
from parse_runtime.serve import Serving
from parse_runtime.serve.app import Service
from parse_runtime.serve.served import Served
from parse_runtime.text.chat import Chat
from parse_runtime.text.tokenizer import Tokenizer
from parse_runtime.text.translation import SameTokens
from tests.unit.parse_fakes import VOCABULARY, Fake, Following, mixing

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


class Device(Fake):
    """Fails while `fault` is set, and waits while `gate` is closed."""

    fault: tuple[type[Exception], str] | None = None
    gate = threading.Event()
    pass_seconds = 0.0

    def extend(self, batch: Batch) -> list[Following]:
        if self.fault:
            kind, message = self.fault
            raise kind(message)
        assert self.gate.wait(20)
        time.sleep(self.pass_seconds)
        return super().extend(batch)


class Session(SimpleNamespace):
    """Graphs, the first `prepared` of which are ready; the others become so by `wait`."""

    def __init__(self, prepared: int, error: Exception | None = None) -> None:
        super().__init__(
            graphs=["one"], prepared=prepared, error=error, digest="ab" * 32, followers=None
        )

    def ready(self) -> int:
        return int(self.prepared)

    def wait(self, progress: Callable[[int, int], None] | None = None) -> None:
        if self.error is not None:
            raise self.error
        self.prepared = len(self.graphs)


def service(device: Device, template: str = TEMPLATE, session: Session | None = None) -> Service:
    """Of a byte tokenizer; answers are of the target alone."""
    device.gate.set()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:VOCABULARY]
    inner = Inner(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    text = TextFormat(Tokenizer(inner), Chat(template, {}, (0,)))
    draft = Fake(mixing(2), slots=device.slots)
    prompts = Prompts(text, text, SameTokens(frozenset({0})))
    rules = Rules(max_rounds=0)
    loaded = Loaded(device, draft, prompts, rules, rules)
    engine = Engine(Scheduler(device, draft))
    return Service(Served("fake", engine, loaded, session or Session(1)))


def main() -> None:
    from parse_runtime.serve import server

    seconds, *settings = sys.argv[1:]
    server._LAST_WORDS = 1
    device = Device(mixing(1, 997), slots=2)
    device.pass_seconds = float(seconds)
    given = dict(setting[2:].replace("-", "_").split("=") for setting in settings)
    options = Serving(port=0, **{name: int(value) for name, value in given.items()})
    server.answer(service(device), server.listen(options), options)


if __name__ == "__main__":
    main()
