"""Which bundle a server answers with, from its start to its end."""

from __future__ import annotations

import gc
import logging
import threading

from foundryrt.errors import FoundryError
from foundryrt.timeline import mark
from parse_runtime.engine.engine import Engine, Stopped, aborted
from parse_runtime.engine.memory import Usage
from parse_runtime.serve.errors import report
from parse_runtime.serve.gate import Gate
from parse_runtime.serve.metrics import Metrics
from parse_runtime.serve.served import Served

_LOG = logging.getLogger(__name__)


class Lifecycle:
    """`serve` has another bundle answer from then on; of any thread."""

    def __init__(self, served: Served) -> None:
        self.served = served
        """What new requests are answered with."""
        self.engines = [served.engine]
        """Those that may have answers to give, the one for new requests last."""
        self.metrics = Metrics(self)
        self.metrics.serves(served.name, served.session.digest)
        self.prepared = threading.Event()
        """The first bundle's graphs are all ready, or never will be."""
        self.switches = 0
        self.failure: FoundryError | None = None
        self._names = {served.name}
        self._changing = threading.Lock()
        """Held while a request is submitted, or its bundle asked, and while the bundle changes."""
        self._stopped = threading.Event()
        self._gate = Gate()
        self._broken = False

    @property
    def engine(self) -> Engine:
        """The one for new requests."""
        return self.served.engine

    @property
    def load(self) -> tuple[int, int]:
        """Answers that run, and that wait, with any bundle."""
        loads = [engine.load for engine in list(self.engines)]
        return sum(running for running, _ in loads), sum(waiting for _, waiting in loads)

    @property
    def usage(self) -> dict[str, Usage]:
        """Blocks of the caches for new requests."""
        return self.engine.usage

    @property
    def failed(self) -> int:
        """Answers that failed in a row."""
        return self.engine.failed

    def prepare(self) -> None:
        """Make every graph of the first bundle ready, until the engine stops; of its own thread.

        Answers need not wait for all.
        """
        try:
            self.complete()
            mark("all graphs")
        except Stopped:
            pass
        except Exception as error:
            report(_LOG, "a graph cannot be prepared", error)
        finally:
            self.prepared.set()

    def complete(self) -> None:
        """Wait until every graph of what is served is ready.

        Where one cannot be made, that is raised, and health is `failing` until another bundle is
        served. Passes go on as long as a larger graph does for it. Stopped once the server stops.
        """
        try:
            self.served.session.wait(self.go_on)
        except Stopped:
            raise
        except Exception:
            self._broken = True
            raise

    def go_on(self, ready: int = 0, total: int = 0) -> None:
        """Raise Stopped once the server stops: work in the background is to end."""
        if self._stopped.is_set():
            raise aborted()

    def pause(self) -> None:
        """Have new requests wait until `serve` or `fail` is called."""
        with self._changing:
            self._gate.close()

    def serve(self, served: Served, again: bool = False) -> None:
        """Answer new requests with another bundle, whose graphs no answer has to wait for.

        `again`: with the one that answered before.
        """
        with self._changing:
            if served.engine is not self.engine:
                self.engines.append(served.engine)
            self.served = served
            self._names.add(served.name)
            self._broken = False
            self.switches += not again
            self._gate.open()
        # What the server froze at its start may be the bundle before, which is to go.
        gc.unfreeze()
        if not again:
            self.metrics.serves(served.name, served.session.digest)
            self.metrics.switched()

    def fail(self, error: FoundryError) -> None:
        """End the requests that wait, and all that come, with an error; the server is to end."""
        self.failure = error
        self._gate.fail(Stopped(f"the server stops: {error}"))

    def check(self) -> None:
        """Raise what has ended the server: RankLost, or what `fail` was told."""
        if self.failure:
            raise self.failure
        self.served.check()

    def stop(self) -> None:
        """Take no more, and have the engines end what is not done with an error."""
        self._stopped.set()
        for engine in list(self.engines):
            engine.abort()
