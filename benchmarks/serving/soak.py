"""Our server above its capacity, with clients of all manners, switches and restarts.

Every request has to end as the right answer, as an error that its client is told, or because its
client left. Right is what the same request gave alone. What is counted: verdicts.py.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from benchmarks.device import cpu
from benchmarks.report import RESULTS, Output, say, today, write_results
from benchmarks.serving.exchange import Manner, Reply, exchange
from benchmarks.serving.questions import Answer, Question, questions, read
from benchmarks.serving.random_model import capture_some, write_pair
from benchmarks.serving.servers import free_port
from benchmarks.serving.soaked import Soaked
from benchmarks.serving.verdicts import Counts, shown, verdict

SLOTS, QUEUE, CLIENT_TIMEOUT, GRACE = 4, 6, 5, 1
_BOUND = 90.0
"""Seconds after which a request that has not ended is lost."""
_AGAIN, _TRIES = 0.25, 80
"""Where nobody listens: seconds to the next try, and how many."""
_SERVER = (
    f"--name soak --queue {QUEUE} --client-timeout {CLIENT_TIMEOUT} --grace {GRACE}"
    " --connections 256"
)
_SAMPLES = 20
_CAPACITY_AT = SLOTS + QUEUE // 2
_SWITCHES = ("alike", "apart", "one")


def run(
    minutes: Annotated[float, Option(help="Of arrivals.")] = 20.0,
    over: Annotated[float, Option(help="Arrivals, of what the server can answer.")] = 1.5,
    switches: Annotated[int, Option(help="To other bundles, spread over the time.")] = 9,
    restarts: Annotated[int, Option(help="In the middle fifth of the time.")] = 4,
    kinds: Annotated[int, Option(help="Requests to draw from; 0: all there are.")] = 0,
    seed: Annotated[int, Option(help="Of arrivals and manners.")] = 1,
    output: Output = RESULTS / "serve_soak.json",
) -> None:
    """Count requests that are lost without a word, or answered wrongly."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pair(folder)
        bundles = capture_some(folder, SLOTS, {"one", *_SWITCHES[:switches]})
        server = Soaked(bundles["one"], folder, free_port(), _SERVER.split())
        drawn, asked = random.Random(seed), questions()
        asked = drawn.sample(asked, kinds) if kinds else asked
        soak = Soak(server, bundles, drawn, asked)
        try:
            found = asyncio.run(soak.run(minutes * 60, over, switches, restarts))
        finally:
            server.kill()
        found["log"] = _faults(server.log)
    result = {"device": cpu(), "date": today(), "slots": SLOTS, "queue": QUEUE, **found}
    write_results(output, result)
    say(f"{result['requests']} requests: {result['counts']}")


class Soak:
    """One soak of a server."""

    def __init__(
        self,
        server: Soaked,
        bundles: dict[str, Path],
        drawn: random.Random,
        asked: Sequence[Question],
    ) -> None:
        self._server, self._bundles, self._drawn, self._asked = server, bundles, drawn, asked
        self._expected: list[Answer] = []
        self._counts = Counts()
        self._refused = 0

    async def run(
        self, seconds: float, over: float, switches: int, restarts: int
    ) -> dict[str, Any]:
        """All of it; what was found."""
        await self._server.start()
        self._expected = [await self._alone(question) for question in self._asked]
        capacity = await self._capacity(min(20.0, seconds / 4))
        say(f"{len(self._asked)} questions, {capacity:.1f} a second; now {over} times as many")
        await self._server.idle()
        samples = [self._server.usage()]
        async with asyncio.TaskGroup() as group:
            events = group.create_task(self._events(seconds, switches, restarts))
            watching = group.create_task(self._watch(samples, seconds / _SAMPLES))
            await self._arrivals(seconds, capacity * over)
            watching.cancel()
        await self._server.idle()
        samples.append(self._server.usage())
        await self._server.stop()
        counts = self._counts
        return {
            "minutes": seconds / 60, "capacity_per_second": capacity, "over": over,
            "questions": len(self._asked), "requests": counts.total,
            "requests_lost": counts.lost + counts.wrong, "tries_refused": self._refused,
            "counts": asdict(counts), "switches": events.result(), "usage": samples,
        }  # fmt: skip

    async def _alone(self, question: Question) -> Answer:
        reply = await self._exchange(question, Manner())
        return read(reply.events)

    async def _exchange(self, question: Question, manner: Manner) -> Any:
        return await exchange(
            self._server.port, question.path, question.asked(manner.stream), manner
        )

    async def _capacity(self, seconds: float) -> float:
        """Answers a second where some always wait."""
        end, answered = time.monotonic() + seconds, 0

        async def asker() -> None:
            nonlocal answered
            while time.monotonic() < end:
                number = self._drawn.randrange(len(self._asked))
                reply = await self._exchange(self._asked[number], Manner())
                answered += reply.status == 200

        async with asyncio.TaskGroup() as group:
            for _ in range(_CAPACITY_AT):
                group.create_task(asker())
        return answered / seconds

    async def _arrivals(self, seconds: float, rate: float) -> None:
        begun, after = time.monotonic(), 0.0
        async with asyncio.TaskGroup() as group:
            while (after := after + self._drawn.expovariate(rate)) < seconds:
                await asyncio.sleep(max(0.0, begun + after - time.monotonic()))
                group.create_task(self._ask(after))

    async def _ask(self, after: float) -> None:
        """One request, until it has ended; `after` so many seconds of the soak it came."""
        number, manner = self._drawn.randrange(len(self._asked)), _manner(self._drawn)
        question = self._asked[number]
        about = {"after": round(after, 2), "question": number, "manner": asdict(manner)}
        for _ in range(_TRIES):
            stops = self._server.stops
            try:
                async with asyncio.timeout(_BOUND):
                    reply = await self._exchange(question, manner)
                refused = reply.again and not reply.status
            except ConnectionRefusedError:
                reply, refused = Reply(), True
            except (ConnectionError, TimeoutError) as error:
                self._counts.ended("lost", {**about, "error": repr(error)})
                return
            # While the server works, neither may be.
            if not refused or not (stops % 2 or self._server.stops != stops):
                break
            self._refused += 1
            await asyncio.sleep(_AGAIN)
        else:
            self._counts.ended("refused", about)
            return
        kind = verdict(reply, self._expected[number], manner.stream)
        if manner.half and kind == "right":
            kind = "wrong"
        self._counts.ended(kind, {**about, **shown(reply)})

    async def _watch(self, samples: list[dict[str, float]], every: float) -> None:
        while True:
            await asyncio.sleep(every)
            if not self._server.stops % 2:
                samples.append(self._server.usage())

    async def _events(self, seconds: float, switches: int, restarts: int) -> list[dict[str, Any]]:
        """Switches over the whole time, restarts in its middle; what the switches said."""
        begun = time.monotonic()
        due = [(seconds * (i + 1) / (switches + 1), "switch") for i in range(switches)]
        due += [(seconds * (0.4 + 0.2 * (i + 0.5) / restarts), "restart") for i in range(restarts)]
        reports: list[dict[str, Any]] = []
        for after, what in sorted(due):
            await asyncio.sleep(max(0.0, begun + after - time.monotonic()))
            say(f"{what}; {self._counts.total} ended, {self._counts.lost} lost")
            if what == "restart":
                await self._server.stop()
                await self._server.start()
            else:
                name = _SWITCHES[len(reports) % len(_SWITCHES)]
                report = await self._server.switch(self._bundles[name])
                kept = ("continued", "open_seconds", "ready_seconds", "swap_ms")
                reports.append({"to": name, **{key: report[key] for key in kept}})
        return reports


def _manner(drawn: random.Random) -> Manner:
    """Half stream; some ask twice, a few leave, read slowly, or send half a request."""
    kind, stream = drawn.random(), drawn.random() < 0.5
    if kind < 0.12:
        return Manner(stream, leaves=drawn.uniform(0.0, 1.5))
    if kind < 0.2:
        return Manner(stream, slow=True)
    if kind < 0.22:
        return Manner(stream, half=True)
    return Manner(stream, again=kind < 0.5)


def _faults(log: Path) -> Sequence[str]:
    """Lines of the server's log beside those of its beginnings."""
    lines = log.read_text(errors="replace").splitlines()
    return [line for line in lines if ": listening on " not in line][:50]
