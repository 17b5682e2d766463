"""What `/metrics` tells, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from vlrt_runtime.answer import Answer
from vlrt_runtime.memory import private

__all__ = ["Metrics"]

PATHS = ("/", "/health", "/metrics", "/v1/chat/completions", "/v1/models")
SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "vlrt_requests", "Requests answered", ("path", "status"), registry=registry
        )
        self.answers = Counter(
            "vlrt_answers", "Answers by how they ended", ("ended",), registry=registry
        )
        self.tokens = Counter("vlrt_tokens", "Tokens by kind", ("kind",), registry=registry)
        self.queue_seconds = Histogram(
            "vlrt_queue_seconds", "Waiting for a turn", registry=registry, buckets=SECONDS
        )
        self.first_seconds = Histogram(
            "vlrt_first_token_seconds", "From a turn's start to its first token",
            registry=registry, buckets=SECONDS,
        )  # fmt: skip
        self.seconds = Histogram(
            "vlrt_answer_seconds", "Of a turn", registry=registry, buckets=SECONDS
        )

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A value that is read when it is asked for."""
        Gauge(name, text, registry=self._registry).set_function(value)

    def watch(self, running: Callable[[], float], waiting: Callable[[], float]) -> None:
        """The line, and memory."""
        self.gauge("vlrt_running", "Answers being computed", running)
        self.gauge("vlrt_waiting", "Requests waiting for their turn", waiting)
        self.gauge("vlrt_private_bytes", "Private memory of the process", lambda: private() or 0)

    def count(self, path: str, status: int) -> None:
        """A response has begun."""
        known = path if path in PATHS else "other"
        self.requests.labels(known, str(status)).inc()

    def answered(self, answer: Answer) -> None:
        """An answer is whole."""
        self.answers.labels(answer.finish_reason).inc()
        for kind, count in (
            ("prompt", answer.prompt_tokens),
            ("cached", answer.cached_tokens),
            ("image", answer.image_tokens),
            ("completion", len(answer.token_ids)),
        ):
            self.tokens.labels(kind).inc(count)
        self.seconds.observe(answer.timings.total / 1e3)
        if answer.timings.ttft:
            self.first_seconds.observe(answer.timings.ttft / 1e3)

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self._registry)
