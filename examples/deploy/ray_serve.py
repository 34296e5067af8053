"""PARSE as a Ray Serve deployment: OpenAI's API, from none to two replicas as requests ask for.

    pip install 'ray[serve]'
    PARSE_BUNDLE=/models/model.fdy serve run examples.deploy.ray_serve:app

Each replica opens the bundle in its own process and answers as `foundryrt serve` does. Ray restarts
one whose answers fail, and ends one only when its requests are done. PARSE_GPUS=1 gives each a GPU.

With PARSE_STANDBY, a socket, the process that `foundryrt standby` has started there serves for a
replica, which then has its first token a second sooner; `{gpu}` in it is the replica's GPU.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ray import serve
from starlette.applications import Starlette

GRACE = 30
"""Seconds for the requests of a replica that is to end."""
GPUS = float(os.environ.get("PARSE_GPUS", "0"))
STANDBY = os.environ.get("PARSE_STANDBY", "")


def application() -> Starlette:
    """The server of PARSE_BUNDLE; called in each replica."""
    bundle, weights = os.environ["PARSE_BUNDLE"], os.environ.get("PARSE_WEIGHTS")
    if STANDBY:
        try:
            return _standing_by(bundle, weights)
        except (OSError, RuntimeError) as error:  # none is there, or it runs another command
            print(f"the replica serves by itself, not at {STANDBY}: {error}", file=sys.stderr)
    return _in_this_process(bundle, weights)


def _standing_by(bundle: str, weights: str | None) -> Starlette:
    from examples.deploy.ray_standby import Server

    path = STANDBY.replace("{gpu}", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    server = Server(path, [bundle, *(["--weights", weights] if weights else [])], GRACE)
    # A tenth of a second, in which the server opens the bundle.
    from examples.deploy.ray_relay import Relay

    relay = Relay(server)
    app = relay.app()
    app.state.check = relay.check
    return app


def _in_this_process(bundle: str, weights: str | None) -> Starlette:
    # They take a while, which a server that stands by has behind it.
    from foundryrt import Session
    from parse_runtime.graphs.loading import load
    from parse_runtime.serve import Serving
    from parse_runtime.serve.server import service_of

    session = Session.open(bundle, weights=weights)
    service = service_of(session, load(session), Serving())
    threading.Thread(target=service.prepare, daemon=True).start()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            service.abort()
            service.engine.close(GRACE)
            session.close()

    async def check() -> None:
        if (state := service.engine.state) != "ok":
            raise RuntimeError(f"the engine is {state}")

    app = service.app()
    app.router.lifespan_context = lifespan
    app.state.check = check
    return app


@serve.deployment(
    # Beyond what may run and wait in a replica, requests wait in Ray's proxy.
    max_ongoing_requests=64,
    graceful_shutdown_timeout_s=GRACE,
    health_check_period_s=5,
    ray_actor_options={"num_cpus": 1, "num_gpus": GPUS},
    autoscaling_config={
        "min_replicas": 0,
        "max_replicas": 2,
        "target_ongoing_requests": 4,
        "upscale_delay_s": 1,
        "downscale_delay_s": 5,
        "downscale_to_zero_delay_s": 5,
        "metrics_interval_s": 0.5,
        "look_back_period_s": 2,
    },
)
@serve.ingress(application)
class Parse:
    """A replica."""

    async def check_health(self) -> None:
        """Raises where the engine no longer answers: Ray then starts another replica."""
        await self.app.state.check()


app = Parse.bind()
