"""A bundle that a server answers with."""

from __future__ import annotations

from dataclasses import dataclass

from foundryrt.session import Session
from parse_runtime.engine.engine import Engine
from parse_runtime.engine.prompts import Prompts
from parse_runtime.engine.rules import BundleRules
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.graphs.loading import Loaded
from parse_runtime.serve import Serving


@dataclass(frozen=True, eq=False)
class Served:
    """What of a bundle requests need."""

    name: str
    """The model's."""
    engine: Engine
    loaded: Loaded
    session: Session

    @property
    def ranks(self) -> int:
        """Processes that run it together."""
        return self.session.followers.world if self.session.followers else 1

    def check(self) -> None:
        """RankLost where one of these has failed or ended."""
        if self.session.followers:
            self.session.followers.check()

    @property
    def prompts(self) -> Prompts:
        return self.loaded.prompts

    @property
    def rules(self) -> BundleRules:
        return BundleRules(self.loaded.captured, self.loaded.rules)


def served(
    session: Session, loaded: Loaded, options: Serving, engine: Engine | None = None
) -> Served:
    """An open bundle with its engine running: a new one, or one that its models were given to."""
    if engine is None:
        scheduler = Scheduler(
            loaded.target, loaded.draft, options.prefill_rows, options.share_prefixes
        )
        engine = Engine(scheduler, options.queue)
    name = options.name or str(session.settings["model"]).rstrip("/").rpartition("/")[2]
    return Served(name, engine, loaded, session)
