"""Another bundle in the place of the one that is served: `POST /admin/switch`."""

from __future__ import annotations

import asyncio
import hmac
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from foundryrt.admin import VARIABLE
from foundryrt.bundle.reader import Bundle
from foundryrt.console import note
from foundryrt.errors import FoundryError, RankLost
from foundryrt.ranks.command import end_with, stop_serving
from foundryrt.ranks.followers import Followers
from parse_runtime.engine.engine import Stopped
from parse_runtime.engine.protocols import Decoder, Target
from parse_runtime.graphs.loading import Loaded
from parse_runtime.serve import Serving
from parse_runtime.serve.app import Service
from parse_runtime.serve.errors import ApiError, reply, translated
from parse_runtime.serve.http import read
from parse_runtime.serve.served import Served, served
from parse_runtime.serve.successor import Asked, Successor, close, open_again, open_successor

_ROOM = ("device memory", "are taken in this process")
"""Of errors, those that would not be where the bundle before is closed first."""

Report = dict[str, Any]


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
            asked = msgspec.json.decode(await read(request), type=Asked)
            report = await self._service.until_stopped(self._aside(asked))
        except (Stopped, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise translated(error) from None
        return reply(report)

    async def _aside(self, asked: Asked) -> Report:
        """Switch, in a thread of its own: it takes long, and goes on if the client leaves."""
        if self._under_way:
            raise ApiError(409, "a switch is under way: wait until it has ended", None, "switching")
        done: Future[Report] = Future()

        before = self._service.served

        def work() -> None:
            try:
                report = self._switch(asked)
            except Exception as error:
                self._under_way = False
                # Not the error itself: its traceback would keep what was opened.
                refusal = _refusal(asked, error, before.session.followers)
                done.set_exception(refusal)
                note(f"switch failed: {refusal}")
            else:
                self._under_way = False
                done.set_result(report)

        thread = threading.Thread(target=work, name="parse-switch", daemon=True)
        self._under_way = True
        try:
            thread.start()
        except RuntimeError:  # the system gives none
            self._under_way = False
            raise
        self._thread = thread
        report = asyncio.wrap_future(done)
        report.add_done_callback(_heard)  # a client may have left, and the loop would complain
        return await asyncio.shield(report)

    def _switch(self, asked: Asked) -> Report:
        """Where an error is raised, what was served before is, or the server ends."""
        self._service.prepared.wait()
        note(f"switching to {asked.bundle}")
        report = self._stopped_first(asked) if asked.stop_first else self._beside(asked)
        note(f"switched to {asked.bundle}")
        return {"bundle": asked.bundle, "stopped_first": asked.stop_first, **report}

    def _beside(self, asked: Asked) -> Report:
        """Open the other bundle while the one before answers."""
        service = self._service
        before, began = service.served, time.perf_counter()
        free = before.session.free_memory()
        opened = open_successor(before, asked, self._options.unlike_tokenizers, service.go_on)
        seconds = time.perf_counter() - began
        continued = "state" in opened.shared
        engine, paused = None, 0.0
        try:
            before.check()
            if continued:
                engine = before.engine
                paused = engine.replace(lambda: _models(before, opened.loaded))
            after = served(opened.session, opened.loaded, self._options, engine)
        except BaseException:
            opened.session.close()
            raise
        self._serve(after)
        swapped, drained = time.perf_counter(), 0.0
        try:
            # The bundle before is closed later: that, too, keeps the driver busy.
            self._complete(asked)
            ready = time.perf_counter() - began
            left = opened.session.free_memory() if opened.shared else None
        finally:
            if not continued:
                drained = self._drain(before, swapped)
            close(before.session)
        before.check()  # answers were lost, and the server ends
        return {
            **_facts(after), "open_seconds": seconds, "ready_seconds": ready,
            "swap_ms": paused * 1e3, "continued": continued, "drain_seconds": drained,
            "added_bytes": None if free is None or left is None else free - left,
        }  # fmt: skip

    def _stopped_first(self, asked: Asked) -> Report:
        """Let the bundle before answer what it has begun, close it, and open the other one.

        Requests wait meanwhile. Where the other one cannot be opened, the one before is again.
        """
        service, before = self._service, self._service.served
        stopped: list[Bundle] = []
        drained, since = 0.0, 0.0

        def stop(own: Bundle) -> None:
            nonlocal drained, since
            service.pause()
            drained, since = self._drain(before, time.perf_counter()), time.perf_counter()
            try:
                before.check()
            except FoundryError as error:
                service.fail(error)
                raise
            stopped.append(own)
            close(before.session)

        unlike, go_on = self._options.unlike_tokenizers, service.go_on
        try:
            after = self._served(open_successor(before, asked, unlike, go_on, stop))
        except Stopped:
            raise
        except Exception as error:
            if stopped:
                self._go_back(before, stopped[0], error)
            raise
        self._serve(after)
        seconds = time.perf_counter() - since
        self._complete(asked)
        return {
            **_facts(after), "open_seconds": seconds, "ready_seconds": time.perf_counter() - since,
            "swap_ms": seconds * 1e3, "continued": False, "drain_seconds": drained,
            "added_bytes": None,
        }  # fmt: skip

    def _go_back(self, before: Served, own: Bundle, reason: Exception) -> None:
        """Serve what was served before; where that fails, too, the server ends."""
        service, unlike = self._service, self._options.unlike_tokenizers
        note(f"error: {reason}; going back to {own.path}")
        try:
            opened = open_again(before, own, unlike, service.go_on)
            self._serve(self._served(opened), again=True)
        except Exception as error:
            service.fail(FoundryError(f"{own.path} cannot be opened again: {error}"))
            stop_serving()
        else:
            with suppress(Exception):  # `reason` is told; health tells of this one
                service.complete()

    def _served(self, opened: Successor) -> Served:
        try:
            return served(opened.session, opened.loaded, self._options)
        except BaseException:
            opened.session.close()
            raise

    def _serve(self, after: Served, again: bool = False) -> None:
        self._service.serve(after, again)
        if after.session.followers:
            end_with(after.session.followers, serving=True)

    def _complete(self, asked: Asked) -> None:
        """Wait for the graphs that no answer has needed yet; ApiError where one cannot be made."""
        try:
            self._service.complete()
        except (Stopped, RankLost):
            raise
        except FoundryError as error:
            message = (
                f"{asked.bundle} is served, but {error}; answers go on as long as a larger graph"
                " does for it: switch to another bundle, or start the server again"
            )
            raise ApiError(500, message, "bundle", "not_complete") from None

    def _drain(self, before: Served, since: float) -> float:
        """Let the answers that began with a bundle come to their ends; seconds from `since`."""
        before.engine.close()
        self._service.engines.remove(before.engine)
        return time.perf_counter() - since


def _facts(after: Served) -> Report:
    session = after.session
    return {
        "name": after.name, "digest": session.digest, "graphs": len(session.graphs),
        "ranks": after.ranks,
    }  # fmt: skip


def _heard(report: asyncio.Future[Report]) -> None:
    if not report.cancelled():
        report.exception()


def _refusal(asked: Asked, error: Exception, ranks: Followers | None) -> ApiError:
    """What the client is told; `ranks` are those of the bundle that was served."""
    if isinstance(error, Stopped) or not isinstance(error, FoundryError):
        return translated(error)
    message = str(error)
    if asked.bundle not in message and not (ranks and message == str(ranks.lost)):
        message = f"{asked.bundle}: {message}"
    # From a rank there is the text of its error alone.
    if any(room in message for room in _ROOM) and not asked.stop_first:
        message += "; --stop-first closes the bundle that is served before it opens this one"
    return ApiError(422, message, "bundle", "not_switched")


def _models(before: Served, after: Loaded) -> tuple[Target, Decoder]:
    """What goes on in the caches of `before`; called where no pass runs."""
    before.session.synchronize()
    after.target.take_over(before.loaded.target)
    after.draft.take_over(before.loaded.draft)
    return after.target, after.draft
