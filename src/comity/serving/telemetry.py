"""What the gateway tells of itself: Prometheus metrics, and OpenTelemetry spans where set up.

Names follow OpenTelemetry's conventions for generative AI. Spans go wherever the process's
tracer provider sends them; without one they cost next to nothing.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from opentelemetry import trace
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from comity.records import Decision, Finding

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_MOST_MODELS = 100
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Telemetry:
    """Counts and times what is asked and answered."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._tracer = trace.get_tracer("comity")
        self._requests = Counter(
            "comity_requests_total",
            "Requests by route and status.",
            ("route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "comity_request_seconds",
            "Seconds until a reply was whole, or its stream began.",
            ("route",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._tokens = Counter(
            "gen_ai_client_token_usage_total",
            "Tokens of the models, by kind.",
            ("gen_ai_request_model", "gen_ai_token_type"),
            registry=self._registry,
        )
        self._findings = Counter(
            "comity_findings_total",
            "What checks found.",
            ("outcome", "by"),
            registry=self._registry,
        )
        self._withheld = Counter(
            "comity_withheld_total", "Answers that a rule kept back.", registry=self._registry
        )
        self._failed_open = Counter(
            "comity_failed_open_total",
            "Decisions that went without a part that had failed.",
            ("part",),
            registry=self._registry,
        )
        self._dropped = Counter(
            "comity_dropped_decisions_total",
            "Decisions that could neither be recorded nor wait.",
            registry=self._registry,
        )
        self._overloads = Counter(
            "comity_overloads_total",
            "Requests refused because a worker had too many in hand.",
            registry=self._registry,
        )

        self._models: set[str] = set()
        self._registry.register(_Tasks())
        ProcessCollector(registry=self._registry)

    def trace_with(self, provider: trace.TracerProvider) -> None:
        """Send spans to a provider of one's own, not the process's."""
        self._tracer = provider.get_tracer("comity")

    def page(self) -> bytes:
        """The metrics as Prometheus reads them: of all workers, where they share a folder."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        from prometheus_client.multiprocess import MultiProcessCollector

        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)

    def failed_open(self, part: str) -> None:
        """Counts a decision that went without a part that had failed."""
        self._failed_open.labels(part).inc()

    def dropped(self) -> None:
        """Counts a decision that could neither be recorded nor wait."""
        self._dropped.inc()

    def overloaded(self) -> None:
        """Counts a request that was refused because there was too much to do."""
        self._overloads.inc()

    @contextmanager
    def request(self, route: str) -> Iterator[_Served]:
        """Times one request; its `status` is told before the end."""
        start, served = time.perf_counter(), _Served()
        try:
            yield served
        except Exception:
            served.status = 500
            raise
        finally:
            self._requests.labels(route, str(served.status)).inc()
            self._seconds.labels(route).observe(time.perf_counter() - start)

    @contextmanager
    def chat(self, model: str) -> Iterator[trace.Span]:
        """A span of one chat completion."""
        attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": model}
        with self._tracer.start_as_current_span(f"chat {model}", attributes=attributes) as span:
            yield span

    async def streamed(self, model: str, events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        """The events under a span; it is the current one while each of them is made.

        Not in between: the steps of a generator may run in different tasks.
        """
        attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": model}
        span = self._tracer.start_span(f"chat {model}", attributes=attributes)
        try:
            async with aclosing(events):
                while True:
                    with trace.use_span(span):
                        event = await anext(events, None)
                    if event is None:
                        return
                    yield event
        finally:
            span.end()

    def _label(self, model: str) -> str:
        """A model's name in metrics; clients, who may choose any name, cannot make ever more."""
        if len(self._models) < _MOST_MODELS:
            self._models.add(model)
        return model if model in self._models else "other"

    def decided(self, model: str, decision: Decision) -> None:
        """Counts what became of an answer, and tells the current span."""
        read, written = decision.usage.prompt_tokens, decision.usage.completion_tokens
        name = self._label(model)
        self._tokens.labels(name, "input").inc(read)
        self._tokens.labels(name, "output").inc(written)
        for finding in decision.findings:
            self._findings.labels(finding.outcome, finding.by).inc()
        if decision.withheld:
            self._withheld.inc()
        span = trace.get_current_span()
        told: dict[str, Any] = {
            "gen_ai.usage.input_tokens": read,
            "gen_ai.usage.output_tokens": written,
            "gen_ai.response.model": decision.model,
            "gen_ai.data_source.id": f"revision {decision.revision}",
            "comity.decision.id": decision.id,
            "comity.withheld": decision.withheld,
        }
        span.set_attributes(told)
        for finding in decision.findings:
            span.add_event(
                "gen_ai.evaluation.result",
                {
                    "gen_ai.evaluation.name": _name(finding),
                    "gen_ai.evaluation.score.label": finding.outcome,
                },
            )


class _Tasks(Collector):
    """Asyncio tasks of this process: more and more of them are a leak."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Counted when it is asked, which is in the event loop."""
        tasks = len(asyncio.all_tasks())
        yield GaugeMetricFamily("comity_tasks", "Asyncio tasks in progress.", value=tasks)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """As `collect`, but for the number."""
        yield GaugeMetricFamily("comity_tasks", "Asyncio tasks in progress.")


def _name(finding: Finding) -> str:
    """The rule and version; what only the answer names stays out of traces."""
    return f"{finding.rule}@{finding.version}" if finding.version else "citation"


class _Served:
    """How a request went."""

    status = 499  # a client that has gone
