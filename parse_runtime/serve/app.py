"""Routes: models, completions, chat completions, health and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from foundryrt.timeline import mark
from parse_runtime.engine.engine import Engine, aborted
from parse_runtime.serve.body import Body, ChatBody, TextBody
from parse_runtime.serve.completion import CompletionFormat
from parse_runtime.serve.errors import ApiError, reply, translated
from parse_runtime.serve.events import Events
from parse_runtime.serve.http import failed, left, read
from parse_runtime.serve.lifecycle import Lifecycle
from parse_runtime.serve.openapi import openapi
from parse_runtime.serve.served import Served
from parse_runtime.serve.streamed import Answers

_LEFT = 499
_SHORT = 4096
"""Bytes of a body that are prepared in less time than a thread for it takes, without a grammar."""
Result = TypeVar("Result")


class Service(Lifecycle):
    """The routes, and what they share."""

    def __init__(self, served: Served) -> None:
        super().__init__(served)
        self._open: dict[Answers, Engine] = {}
        self._stopping = asyncio.Event()

    def app(self, more: Sequence[Route] = ()) -> Starlette:
        """The ASGI application, with `more` routes."""
        app = Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/v1/models/{name:path}", self.model),
                Route("/v1/completions", self.text, methods=["POST"]),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/health", self.health),
                Route("/metrics", self.page),
                Route("/openapi.json", self.description),
                *more,
            ],
            exception_handlers=dict.fromkeys((HTTPException, ApiError, Exception), failed),
        )
        # A redirection is no answer of the API.
        app.router.redirect_slashes = False
        return app

    def abort(self) -> None:
        """As `stop`, but end what is not done at once; of the event loop.

        The engines themselves end it after the pass that runs, which may be long.
        """
        self.stop()
        self._stopping.set()
        for answers in self._open:
            answers.abandon(aborted())

    async def models(self, request: Request) -> Response:
        return reply({"object": "list", "data": [self._card()]})

    async def model(self, request: Request) -> Response:
        self._known(request.path_params["name"])
        return reply(self._card())

    async def health(self, request: Request) -> Response:
        """200 where no answer waits long for a graph and the engine works, else 503.

        That is once all are ready, after a switch at once: see `first_graphs`.
        """
        with self._changing:
            session, ranks = self.served.session, self.served.ranks
            graphs, digest, paused = len(session.graphs), session.digest, self._gate.closed
            ready = 0 if paused else session.ready()
        running, waiting = self.load
        state = "switching" if paused and not self._stopped.is_set() else self.engine.state
        if state == "ok" and ready < graphs:
            if self._broken:
                state = "failing"
            elif not self.prepared.is_set():
                state = "starting"
        report = {
            "status": state, "graphs": graphs, "ready": ready, "running": running,
            "waiting": waiting, "failed_in_a_row": self.failed, "bundle": digest,
            "ranks": ranks, "switches": self.switches,
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
            response = await self.until_stopped(self._answer(request, kind))
        except ClientDisconnect:
            response = Response(status_code=_LEFT)
        except Exception as error:
            response = translated(error, self.metrics.retry_seconds).response()
        self.metrics.replied(endpoint, response.status_code)
        return response

    async def _answer(self, request: Request, kind: type[Body]) -> Response:
        content = await read(request)
        try:
            body = msgspec.json.decode(content, type=kind)
        except (UnicodeDecodeError, RecursionError) as error:
            raise ApiError(400, f"the body cannot be read: {error}") from None
        if body.model is not None:
            self._known(body.model)
        short = len(content) <= _SHORT and not body.compiles
        answers, completion = await self._begin(body, kind is ChatBody, short)
        if body.stream:
            return Events(answers, completion, self.close)
        try:
            return await self._whole(request, answers, completion)
        finally:
            self.close(answers)

    async def _begin(self, body: Body, chat: bool, short: bool) -> tuple[Answers, CompletionFormat]:
        """Submit what is asked, to the bundle that it was made for."""
        waited = False
        while True:
            waited |= await self._gate.passed()
            served = self.served
            requests = partial(
                body.requests, served.prompts, served.rules, served.engine.max_len
            )  # fmt: skip
            # Templates and tokenizers may take their time over a long prompt.
            asked = requests() if short else await run_in_threadpool(requests)
            if len(asked) > served.engine.capacity:
                message = f"n={len(asked)}: there is room for {served.engine.capacity} answers"
                raise ApiError(400, message, "n")
            text = partial(served.prompts.text, body.stops())
            answers = Answers(served.engine, asked, text, self.metrics.ended)
            # How tokens are written, where the answer lists them.
            spelling = None if body.listed() is None else served.prompts.spelling
            completion = CompletionFormat(chat, served.name, body.counted(), spelling)
            try:
                if self._submit(served, answers, waited):
                    return answers, completion
            except BaseException:
                self.close(answers)
                raise

    def _submit(self, served: Served, answers: Answers, waited: bool) -> bool:
        """False where another bundle answers by now, or will: it is to be asked in its own way."""
        with self._changing:
            if served is not self.served or self._gate.closed:
                return False
            mark("first request")
            self._open[answers] = served.engine
            for outcome in answers.outcomes:
                served.engine.submit(outcome.request, outcome, waited)
            return True

    async def until_stopped(self, work: Coroutine[Any, Any, Result]) -> Result:
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

        answers.direct = lambda part: True  # Nobody wants to know of it before the end.

        async def collect() -> None:
            async for _ in answers:
                pass

        answer = asyncio.create_task(collect())
        gone = asyncio.create_task(left(request))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                return Response(status_code=_LEFT)
            answer.result()
            return reply(completion.whole(answers.outcomes))
        finally:
            answer.cancel()
            gone.cancel()

    def close(self, answers: Answers) -> None:
        """Cancel what still runs."""
        engine = self._open.pop(answers, None)
        for outcome in answers.outcomes if engine else ():
            if engine and not outcome.done:
                engine.cancel(outcome)

    def _known(self, name: str) -> None:
        # Clients need not know of a switch.
        if name not in self._names:
            message = f"no model {name!r} here; there is {self.served.name!r}"
            raise ApiError(404, message, "model", "model_not_found")

    def _card(self) -> dict[str, object]:
        return {
            "id": self.served.name, "object": "model", "created": 0, "owned_by": "foundry",
            "max_model_len": self.engine.max_len,
        }  # fmt: skip
