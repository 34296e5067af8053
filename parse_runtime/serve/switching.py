"""Another bundle in the place of the one that is served: `POST /admin/switch`."""

from __future__ import annotations

import asyncio
import hmac
import threading
import time
from concurrent.futures import Future
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from foundryrt.admin import VARIABLE
from foundryrt.bundle.reader import Bundle
from foundryrt.console import note
from foundryrt.errors import FoundryError, UsageError
from foundryrt.session import Session
from parse_runtime.engine.engine import Stopped
from parse_runtime.engine.protocols import Decoder, Target
from parse_runtime.graphs.continuing import shared_regions
from parse_runtime.graphs.loading import Loaded, load
from parse_runtime.serve import Serving
from parse_runtime.serve.app import Service
from parse_runtime.serve.errors import ApiError, reply, translated
from parse_runtime.serve.http import read
from parse_runtime.serve.served import Served, served

Report = dict[str, Any]


class SwitchBody(msgspec.Struct, forbid_unknown_fields=True):
    """The bundle to serve: a path on the server's machine, or a URL."""

    bundle: str


class Switching:
    """Switches of a service, one at a time; `token` is what a request must show."""

    def __init__(self, service: Service, options: Serving, token: str) -> None:
        self._service, self._options, self._token = service, options, token
        self._thread: threading.Thread | None = None
        self._under_way = False

    @property
    def route(self) -> Route:
        return Route("/admin/switch", self._answer, methods=["POST"])

    def join(self, seconds: float) -> bool:
        """Wait for a switch that is under way; whether none is left."""
        if self._thread is None:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    async def _answer(self, request: Request) -> Response:
        if not self._token:
            raise ApiError(403, f"the server has no admin token: start it with {VARIABLE} set")
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
            message = "the server's admin token is needed: Authorization: Bearer TOKEN"
            raise ApiError(401, message, headers={"WWW-Authenticate": "Bearer"})
        try:
            body = msgspec.json.decode(await read(request), type=SwitchBody)
            report = await self._service.until_stopped(self._aside(body.bundle))
        except (Stopped, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise translated(error) from None
        return reply(report)

    async def _aside(self, path: str) -> Report:
        """Switch, in a thread of its own: it takes long, and goes on if the client leaves."""
        if self._under_way:
            raise ApiError(409, "a switch is under way: wait until it has ended", None, "switching")
        done: Future[Report] = Future()

        def work() -> None:
            try:
                report = self._switch(path)
            except Exception as error:
                self._under_way = False
                # Not the error itself: its traceback would keep what was opened.
                done.set_exception(_refusal(path, error))
            else:
                self._under_way = False
                done.set_result(report)

        self._under_way = True
        self._thread = threading.Thread(target=work, name="parse-switch", daemon=True)
        self._thread.start()
        report = asyncio.wrap_future(done)
        report.add_done_callback(_heard)  # a client may have left, and the loop would complain
        return await asyncio.shield(report)

    def _switch(self, path: str) -> Report:
        """Nothing has changed where an error is raised."""
        service = self._service
        service.prepared.wait()
        before, began = service.served, time.perf_counter()
        note(f"switching to {path}")
        free = before.session.free_memory()
        session, shared = _open(before.session, path)
        try:
            loaded = load(session, self._options.unlike_tokenizers)
            _check_tokenizers(before.loaded, loaded)
            session.wait(service.go_on)
            seconds = time.perf_counter() - began
            left = session.free_memory()
            continued = "state" in shared
            engine, paused = None, 0.0
            if continued:
                engine = before.engine
                paused = engine.replace(lambda: _models(before, loaded))
        except BaseException:
            session.close()
            raise
        after = served(session, loaded, self._options, engine)
        service.serve(after)
        drained = 0.0 if continued else self._drain(before)
        _close(before.session)
        report = {
            "bundle": path, "name": after.name, "digest": session.digest,
            "graphs": len(session.graphs), "open_seconds": seconds, "swap_ms": paused * 1e3,
            "continued": continued, "drain_seconds": drained,
            "added_bytes": None if free is None or left is None else free - left,
        }  # fmt: skip
        note(f"switched to {path}")
        return report

    def _drain(self, before: Served) -> float:
        """Let the answers that began with a bundle come to their ends with it; seconds."""
        since = time.perf_counter()
        before.engine.close()
        self._service.engines.remove(before.engine)
        return time.perf_counter() - since


def _heard(report: asyncio.Future[Report]) -> None:
    if not report.cancelled():
        report.exception()


def _refusal(path: str, error: Exception) -> ApiError:
    if isinstance(error, Stopped) or not isinstance(error, FoundryError):
        return translated(error)
    message = str(error)
    if path not in message:
        message = f"{path}: {message}"
    return ApiError(422, message, "bundle", "not_switched")


def _open(session: Session, path: str) -> tuple[Session, list[str]]:
    """The bundle over memory of a session, and which regions that is."""
    shared: list[str] = []

    def choose(own: Bundle, other: Bundle) -> list[str]:
        shared.extend(shared_regions(own, other))
        return shared

    return session.beside(path, choose), shared


def _check_tokenizers(before: Loaded, after: Loaded) -> None:
    old, new = before.prompts, after.prompts
    for model, one, other in (("target", old.target, new.target), ("draft", old.draft, new.draft)):
        if one.tokenizer.fingerprint != other.tokenizer.fingerprint:
            raise UsageError(f"the bundle has another tokenizer of the {model} model")


def _models(before: Served, after: Loaded) -> tuple[Target, Decoder]:
    """What goes on in the caches of `before`; called where no pass runs."""
    before.session.synchronize()
    after.target.take_over(before.loaded.target)
    after.draft.take_over(before.loaded.draft)
    return after.target, after.draft


def _close(session: Session) -> None:
    """Its place is taken already: an error changes nothing."""
    try:
        session.close()
    except FoundryError as error:
        note(f"warning: the bundle that was served before: {error}")
