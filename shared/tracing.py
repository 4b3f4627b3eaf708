"""Traces: a run as one story, from the command to its files and to what history shows; off unless `TRACES` says so.

The context travels with events: the outbox keeps it in a column, so that it survives a crash, and the relay sends it as
the header `traceparent` (W3C). While traces are off nothing of OpenTelemetry is imported but the API, which FastAPI
does itself; `shared.otlp` has the rest.
"""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig
    from structlog.typing import Processor

    from shared.events import Event

HEADER: Final = "traceparent"
NOT_TOLD: Final["TelemetryConfig"] = {
    "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False,
}  # fmt: skip
"""What FastAPI would tell besides: metrics and logs are ours, and not every dependency is worth a span."""

Sent = tuple[str, str, str | None]
"""An event that is about to be published: its topic, its type, and the context it was committed in."""


class Tracer(Protocol):
    """What the services tell of their work."""

    on: bool

    def log_processors(self) -> "Sequence[Processor]":
        """What adds `trace_id` and `span_id` to log lines."""
        ...

    def telemetry(self) -> "TelemetryConfig":
        """What FastAPI shall tell of requests by itself."""
        ...

    def note(self, **attributes: str) -> None:
        """Add to the span of the work in hand, as the request's tenant."""
        ...

    def here(self) -> str | None:
        """The context of the work in hand, to be kept for later."""
        ...

    def within(self, context: str | None) -> AbstractContextManager[None]:
        """Go on in a context that was kept."""
        ...

    def span(self, name: str, context: str | None, **attributes: str | int) -> AbstractContextManager[None]:
        """A piece of work in a context that was kept."""
        ...

    def commit(self, events: "Sequence[Event]") -> Sequence[str | None]:
        """The contexts to keep with events that are being committed."""
        ...

    def publish(self, events: Sequence[Sent]) -> AbstractContextManager[Sequence[str | None]]:
        """Their contexts on the way to the consumers; leave it when the broker has taken them."""
        ...

    def handle(
        self, name: str, came_in: Sequence[str | None], *, together: bool, **attributes: str
    ) -> AbstractContextManager[None]:
        """The handling of an event in its context, or of many `together`, which belongs to none and links to all."""
        ...

    def quiet(self) -> AbstractContextManager[None]:
        """Work that is not worth a span, however often it asks the database."""
        ...

    def stop(self) -> None:
        """Send what is left, within a few seconds."""
        ...


class Off:
    """No traces: costs a call where something would be told, and nothing else."""

    on = False

    def log_processors(self) -> "Sequence[Processor]":
        """None."""
        return ()

    def telemetry(self) -> "TelemetryConfig":
        """Nothing."""
        return {**NOT_TOLD, "tracing": False}

    def note(self, **attributes: str) -> None:
        """Nothing."""

    def here(self) -> str | None:
        """Nowhere."""
        return None

    def within(self, context: str | None) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()

    def span(self, name: str, context: str | None, **attributes: str | int) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()

    def commit(self, events: "Sequence[Event]") -> Sequence[str | None]:
        """None for each."""
        return [None] * len(events)

    @contextmanager
    def publish(self, events: Sequence[Sent]) -> Generator[Sequence[str | None]]:
        """What they were committed in: this process may be the only one without traces."""
        yield [context for _, _, context in events]

    def handle(
        self, name: str, came_in: Sequence[str | None], *, together: bool, **attributes: str
    ) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()

    def quiet(self) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()

    def stop(self) -> None:
        """Nothing."""


_tracer: Tracer = Off()


def tracer() -> Tracer:
    """This process's."""
    return _tracer


def start(service: str) -> None:
    """Trace from now on, as the standard's `OTEL_…` variables say; raises ImportError without the extra `otel`."""
    global _tracer
    from shared.otlp import Otlp

    _tracer = Otlp(service)
