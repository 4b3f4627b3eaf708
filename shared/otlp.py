"""Traces by OpenTelemetry, sent by OTLP over HTTP; imported only where `TRACES=otlp`.

Spans are sent by a thread of their own, from a queue that forgets what it has no room for: a collector that is slow or
away costs spans, never a run.
"""

import os
import threading
from collections.abc import Generator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from fastapi.telemetry import TelemetryConfig
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.typing import EventDict, Processor, WrappedLogger

from shared.events import EXPORTED_RUNS, SCHEDULED_RUNS, Event
from shared.tracing import HEADER, NOT_TOLD, Sent

SILENT: Final = ("/health/", "/metrics", "/static/", "/sign-in")
"""Paths without spans; addresses of the sign-in hold codes and tokens."""
STOP_SECONDS: Final = 2
"""What a stop waits for a collector."""
MAX_LINKS: Final = 128
"""As many as the SDK keeps; a batch of history may have thousands of events."""
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_HANDLED: Final = contexts.create_key("cdds-handled")


class Otlp:
    """The tracer of a process that tells."""

    on = True

    def __init__(self, service: str) -> None:
        name = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": f"cdds-{service}"}
        self._provider = TracerProvider(resource=Resource.create(name), shutdown_on_exit=False)
        self._provider.add_span_processor(_Belonging(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("cdds")
        HTTPXClientInstrumentor().instrument(tracer_provider=self._provider)
        AsyncPGInstrumentor().instrument(tracer_provider=self._provider)

    def log_processors(self) -> Sequence[Processor]:
        """Those of the span that a line is written in."""
        return (_add_ids,)

    def telemetry(self) -> TelemetryConfig:
        """Each request is a span."""
        return {**NOT_TOLD, "tracer_provider": self._provider, "exclude": _is_silent}

    def note(self, **attributes: str) -> None:
        """As `cdds.tenant`."""
        trace.get_current_span().set_attributes(_named(attributes))

    def here(self) -> str | None:
        """In the form of W3C."""
        return _written(trace.get_current_span())

    @contextmanager
    def within(self, context: str | None) -> Generator[None]:
        """Sets it until the end of the block."""
        token = contexts.attach(_read(context))
        try:
            yield
        finally:
            contexts.detach(token)

    @contextmanager
    def span(self, name: str, context: str | None, **attributes: str | int) -> Generator[None]:
        """A new trace where no context was kept."""
        with self._tracer.start_as_current_span(name, _read(context), attributes=_named(attributes)):
            yield

    def commit(self, events: Sequence[Event]) -> Sequence[str | None]:
        """Each event is a moment of the trace; one that belongs to no work in hand begins its own."""
        return [self._commit(event) for event in events]

    def _commit(self, event: Event) -> str | None:
        here = trace.get_current_span().get_span_context()
        # A run that waited for the end of another one is a story of its own.
        apart = event.topic is SCHEDULED_RUNS and contexts.get_value(_HANDLED) == EXPORTED_RUNS.name
        span = self._tracer.start_span(
            f"commit {type(event).__name__}",
            contexts.Context() if apart else None,
            attributes=_named({name: getattr(event, name) for name in _IDS if hasattr(event, name)}),
            links=[Link(here)] if apart else None,
        )
        span.end()
        return _written(span)

    @contextmanager
    def publish(self, events: Sequence[Sent]) -> Generator[Sequence[str | None]]:
        """A span for each, from here until the broker has taken them all."""
        spans = [
            self._tracer.start_span(f"publish {topic}", _read(context), SpanKind.PRODUCER, {"cdds.type": type_})
            if context
            else None
            for topic, type_, context in events
        ]
        try:
            yield [span and _written(span) for span in spans]
        except BaseException as error:
            for span in filter(None, spans):
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
        finally:
            for span in filter(None, spans):
                span.end()

    @contextmanager
    def handle(self, name: str, came_in: Sequence[str | None], *, together: bool, **attributes: str) -> Generator[None]:
        """As a consumer."""
        parent = None if together or not came_in else came_in[0]
        links = [_link(context) for context in dict.fromkeys(came_in) if context][-MAX_LINKS:] if together else None
        with ExitStack() as exits:
            exits.enter_context(_handling(attributes.get("topic", "")))
            exits.enter_context(
                self._tracer.start_as_current_span(
                    name, _read(parent), SpanKind.CONSUMER, {**_named(attributes), "cdds.events": len(came_in)}, links
                )
            )
            yield

    @contextmanager
    def quiet(self) -> Generator[None]:
        """Also in the tasks that are made inside."""
        with suppress_instrumentation():
            yield

    def stop(self) -> None:
        """In a thread, because the SDK waits up to 30 s for a collector that is away."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(STOP_SECONDS)


class _Belonging(BatchSpanProcessor):
    """Sends what belongs to some work: loops ask the database many times a second whether there is any."""

    def on_end(self, span: ReadableSpan) -> None:
        if span.parent is not None or span.kind is not SpanKind.CLIENT:
            super().on_end(span)


_IDS: Final = ("event_id", "tenant", "job_id", "run_id", "attempt")


def _is_silent(scope: MutableMapping[str, Any]) -> bool:
    return str(scope.get("path", "")).startswith(SILENT)


def _named(attributes: Mapping[str, Any]) -> dict[str, str | int]:
    return {f"cdds.{name}": value if isinstance(value, int) else str(value) for name, value in attributes.items()}


def _add_ids(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
        event["span_id"] = trace.format_span_id(context.span_id)
    return event


def _written(span: Span) -> str | None:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span, contexts.Context()))
    return carrier.get(HEADER)


def _read(context: str | None) -> contexts.Context:
    """What is none begins a new trace; other keys, as that of `quiet`, stay."""
    here = trace.set_span_in_context(trace.INVALID_SPAN)
    return _PROPAGATOR.extract({HEADER: context}, here) if context else here


def _link(context: str) -> Link:
    return Link(trace.get_current_span(_read(context)).get_span_context())


@contextmanager
def _handling(topic: str) -> Generator[None]:
    token = contexts.attach(contexts.set_value(_HANDLED, topic))
    try:
        yield
    finally:
        contexts.detach(token)
