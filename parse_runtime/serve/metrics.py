"""What Prometheus is told."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    generate_latest,
)

from foundryrt import timeline
from parse_runtime.engine.memory import Usage
from parse_runtime.engine.outcome import Outcome
from parse_runtime.serve.gpus import GpuCollector

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)
_PHASES = ("queue", "prefill", "draft", "verify", "resume")


class Answering(Protocol):
    """What gauges show."""

    @property
    def load(self) -> tuple[int, int]:
        """Answers that run, and that wait."""

    @property
    def failed(self) -> int:
        """Answers that failed in a row."""

    @property
    def usage(self) -> dict[str, Usage]:
        """Blocks of the caches, by model."""


class Metrics:
    """Of one server, in a registry of its own."""

    def __init__(self, answering: Answering) -> None:
        registry = self._registry = CollectorRegistry()
        self._answers = Counter(
            "parse_requests", "Requests by endpoint and status", ["endpoint", "status"],
            registry=registry,
        )  # fmt: skip
        self._tokens = Counter("parse_tokens", "Tokens by kind", ["kind"], registry=registry)
        self._failures = Counter(
            "parse_failures", "Answers that failed, by the kind of error", ["kind"],
            registry=registry,
        )  # fmt: skip
        self._rounds = Counter("parse_rounds", "Drafts that were judged", registry=registry)
        self._seconds = Histogram(
            "parse_request_seconds", "From submission to end", buckets=_SECONDS, registry=registry
        )
        self._first = Histogram(
            "parse_first_token_seconds", "From submission to the first token", buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self._phases = Counter(
            "parse_phase_seconds", "Seconds of requests by phase", ["phase"], registry=registry
        )
        running = Gauge("parse_running", "Requests that have a slot", registry=registry)
        waiting = Gauge("parse_waiting", "Requests that wait for one", registry=registry)
        running.set_function(lambda: answering.load[0])
        waiting.set_function(lambda: answering.load[1])
        failed = Gauge(
            "parse_failed_in_a_row", "Answers that failed since one did not", registry=registry
        )
        failed.set_function(lambda: answering.failed)
        blocks = Gauge(
            "parse_kv_blocks", "Blocks of 16 tokens of the caches: all, used, used by several",
            ["model", "kind"], registry=registry,
        )  # fmt: skip
        for model in answering.usage:
            for kind in ("total", "used", "shared"):
                count = partial(_blocks, answering, model, kind)
                blocks.labels(model, kind).set_function(count)
        self._preemptions = Counter(
            "parse_preemptions", "Times that an answer gave its blocks to older ones",
            registry=registry,
        )  # fmt: skip
        self._bundle = Info("parse_bundle", "The bundle that answers", registry=registry)
        self._switches = Counter("parse_switches", "Switches to another bundle", registry=registry)
        self._start = Gauge(
            "parse_start_seconds", "From the start of the process to a step of it", ["step"],
            registry=registry,
        )  # fmt: skip
        registry.register(GpuCollector())
        self._recent = 1.0

    @property
    def retry_seconds(self) -> int:
        """When a slot may be free: about the time that requests take."""
        return max(1, round(self._recent))

    def serves(self, name: str, digest: str) -> None:
        """Show which bundle answers."""
        self._bundle.info({"name": name, "digest": digest})

    def switched(self) -> None:
        """Count a switch."""
        self._switches.inc()

    def replied(self, endpoint: str, status: int) -> None:
        """Count an HTTP answer; 499 is a client that left."""
        self._answers.labels(endpoint, str(status)).inc()

    def ended(self, outcome: Outcome) -> None:
        """Count what an answer took, or why it failed."""
        if outcome.error is not None:
            self._failures.labels(type(outcome.error).__name__).inc()
            return
        counts = outcome.statistics
        for kind, number in (
            ("prompt", len(outcome.request.prompt)), ("generated", counts.tokens),
            ("drafted", counts.drafted), ("accepted", counts.accepted), ("shared", counts.shared),
        ):  # fmt: skip
            self._tokens.labels(kind).inc(number)
        self._rounds.inc(counts.rounds)
        self._preemptions.inc(counts.preempted)
        self._seconds.observe(counts.seconds)
        if counts.tokens:
            self._first.observe(counts.first_token_seconds)
        for phase in _PHASES:
            self._phases.labels(phase).inc(getattr(counts, f"{phase}_seconds"))
        self._recent += 0.2 * (counts.seconds - self._recent)

    def page(self) -> bytes:
        """The exposition, as text."""
        for step, at in timeline.seconds().items():
            self._start.labels(step).set(at)
        return generate_latest(self._registry)


def _blocks(answering: Answering, model: str, kind: str) -> float:
    return float(getattr(answering.usage[model], kind))
