"""Routes: models, completions, chat completions, health and metrics."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from foundryrt.protocols import SessionLike
from parse_runtime.engine.engine import Engine, Stopped, aborted
from parse_runtime.engine.prompts import Prompts
from parse_runtime.engine.rules import Rules
from parse_runtime.serve.body import Body, ChatBody, TextBody
from parse_runtime.serve.completion import CompletionFormat
from parse_runtime.serve.errors import ApiError, reply, translated
from parse_runtime.serve.events import Events
from parse_runtime.serve.metrics import Metrics
from parse_runtime.serve.openapi import openapi
from parse_runtime.serve.streamed import Answers
from parse_runtime.text.spelling import Spelling

_LOG = logging.getLogger(__name__)
_MOST_BYTES = 8 << 20
_LEFT = 499
Result = TypeVar("Result")


@dataclass(frozen=True)
class Service:
    """What the routes share."""

    name: str
    engine: Engine
    prompts: Prompts
    rules: Rules
    session: SessionLike
    metrics: Metrics
    _open: set[Answers] = field(default_factory=set)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _broken: threading.Event = field(default_factory=threading.Event)

    def app(self) -> Starlette:
        """The ASGI application."""
        app = Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/v1/models/{name:path}", self.model),
                Route("/v1/completions", self.text, methods=["POST"]),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/health", self.health),
                Route("/metrics", self.page),
                Route("/openapi.json", self.description),
            ],
            exception_handlers=dict.fromkeys((HTTPException, ApiError, Exception), _failed),
        )
        # A redirection is no answer of the API.
        app.router.redirect_slashes = False
        return app

    def prepare(self) -> None:
        """Make every graph ready, until the engine stops; of a thread of its own.

        Answers need not wait for all.
        """

        def go_on(ready: int, total: int) -> None:
            if self.engine.state == "stopped":
                raise aborted()

        try:
            self.session.wait(go_on)
        except Stopped:
            pass
        except Exception:
            _LOG.exception("a graph cannot be prepared")
            self._broken.set()

    def abort(self) -> None:
        """Take no more, and end what is not done with an error at once; of the event loop.

        The engine itself ends it after the pass that runs, which may be long.
        """
        self.engine.abort()
        self._stopping.set()
        for answers in self._open:
            answers.abandon(aborted())

    async def models(self, request: Request) -> Response:
        return reply({"object": "list", "data": [self._card()]})

    async def model(self, request: Request) -> Response:
        self._known(request.path_params["name"])
        return reply(self._card())

    async def health(self, request: Request) -> Response:
        """200 where every graph can be launched and the engine works, else 503."""
        graphs, ready = len(self.session.graphs), self.session.ready()
        running, waiting = self.engine.load
        state = self.engine.state
        if state == "ok" and ready < graphs:
            state = "failing" if self._broken.is_set() else "starting"
        report = {
            "status": state, "graphs": graphs, "ready": ready, "running": running,
            "waiting": waiting, "failed_in_a_row": self.engine.failed,
        }  # fmt: skip
        return reply(report, 200 if state == "ok" else 503)

    async def page(self, request: Request) -> Response:
        return Response(self.metrics.page(), media_type=CONTENT_TYPE_LATEST)

    async def description(self, request: Request) -> Response:
        return reply(openapi())

    async def text(self, request: Request) -> Response:
        return await self._complete(request, TextBody, "completions")

    async def chat(self, request: Request) -> Response:
        return await self._complete(request, ChatBody, "chat")

    async def _complete(self, request: Request, kind: type[Body], endpoint: str) -> Response:
        try:
            response = await self._until_stopped(self._answer(request, kind))
        except ClientDisconnect:
            response = Response(status_code=_LEFT)
        except Exception as error:
            response = translated(error, self.metrics.retry_seconds).response()
        self.metrics.replied(endpoint, response.status_code)
        return response

    async def _answer(self, request: Request, kind: type[Body]) -> Response:
        content = await _read(request)
        try:
            body = msgspec.json.decode(content, type=kind)
        except (UnicodeDecodeError, RecursionError) as error:
            raise ApiError(400, f"the body cannot be read: {error}") from None
        if body.model is not None:
            self._known(body.model)
        # Templates and tokenizers may take their time over a long prompt.
        asked = await run_in_threadpool(
            body.requests, self.prompts, self.rules, self.engine.max_len
        )
        if len(asked) > self.engine.capacity:
            message = f"n={len(asked)}: there is room for {self.engine.capacity} answers"
            raise ApiError(400, message, "n")
        answers = Answers(asked, lambda: self.prompts.text(body.stops()), self.metrics.ended)
        completion = CompletionFormat(
            kind is ChatBody, self.name, body.counted(), self._spelling(body)
        )
        try:
            self._submit(answers)
            if body.stream:
                return Events(answers, completion, self.close)
            response = await self._whole(request, answers, completion)
        except BaseException:
            self.close(answers)
            raise
        self.close(answers)
        return response

    def _spelling(self, body: Body) -> Spelling | None:
        """How tokens are written where the answer lists them."""
        return None if body.listed() is None else self.prompts.spelling

    def _submit(self, answers: Answers) -> None:
        self._open.add(answers)
        for outcome in answers.outcomes:
            self.engine.submit(outcome.request, outcome)

    async def _until_stopped(self, work: Coroutine[Any, Any, Result]) -> Result:
        """What `work` gives; an error where the server aborts before."""
        task = asyncio.create_task(work)
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise aborted()
            return task.result()
        finally:
            task.cancel()
            stopping.cancel()

    async def _whole(
        self, request: Request, answers: Answers, completion: CompletionFormat
    ) -> Response:
        """The answers, or a status that nobody sees where the client leaves before it."""

        async def collect() -> None:
            async for _ in answers:
                pass

        answer = asyncio.create_task(collect())
        left = asyncio.create_task(_left(request))
        try:
            await asyncio.wait({answer, left}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                return Response(status_code=_LEFT)
            answer.result()
            return reply(completion.whole(answers.outcomes))
        finally:
            answer.cancel()
            left.cancel()

    def close(self, answers: Answers) -> None:
        """Cancel what still runs."""
        self._open.discard(answers)
        for outcome in answers.outcomes:
            if not outcome.done:
                self.engine.cancel(outcome)

    def _known(self, name: str) -> None:
        if name != self.name:
            message = f"no model {name!r} here; there is {self.name!r}"
            raise ApiError(404, message, "model", "model_not_found")

    def _card(self) -> dict[str, object]:
        return {
            "id": self.name, "object": "model", "created": 0, "owned_by": "foundry",
            "max_model_len": self.engine.max_len,
        }  # fmt: skip


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BYTES:
            raise ApiError(413, f"the body is longer than {_MOST_BYTES} bytes")
    return bytes(body)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _failed(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        error = ApiError(error.status_code, error.detail, headers=dict(error.headers or {}))
    if not isinstance(error, ApiError):
        # What was raised is logged by the server.
        error = ApiError(500, f"the server failed: {type(error).__name__}")
    return error.response()
