"""Traces that are off cost nothing, and contexts go where events go."""

import os
import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared.events import EXPORTED_RUNS, Event, JobSuspended, RunRequested
from shared.otlp import Otlp
from shared.tracing import Off
from tests.contracts.examples import EXAMPLES
from tests.shared.settings import SERVICES, good

PROGRAM = """
import sys
SDK = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.instrumentation", "google.protobuf", "requests")
import services.console.app, services.exporter.app, services.history.app, services.job_api.app, services.scheduler.app
from services.console.config import Settings
from shared import runtime

async def application(settings):
    sys.stdout.write(" ".join(sorted(name for name in sys.modules if name.startswith(SDK))) + "\\n")

runtime.main("console", Settings, application)
"""
WITHOUT = "import sys; sys.modules['opentelemetry.sdk'] = None; from services.{service}.app import main; main()"


async def ended(code: str, environment: dict[str, str]) -> tuple[int | None, str, str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("CDDS_")}
    child = await create_subprocess_exec(
        sys.executable, "-c", code, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env={**outside, **environment}
    )
    output, errors = await child.communicate()
    return child.returncode, output.decode(), errors.decode()


async def test_nothing_that_traces_is_imported_while_traces_are_off(tmp_path: Path) -> None:
    code, output, errors = await ended(PROGRAM, good("console", tmp_path))
    assert (code, errors) == (0, "")
    assert output.splitlines()[0] == ""


@pytest.mark.parametrize("service", SERVICES[-2:])
async def test_a_missing_extra_is_said_with_the_remedy(service: str, tmp_path: Path) -> None:
    code, _, errors = await ended(WITHOUT.format(service=service), good(service, tmp_path, traces="otlp"))
    variable = f"CDDS_{service.upper()}_TRACES"
    assert code == 2
    assert errors == (
        f"{service}: {variable}: is otlp, but OpenTelemetry is not installed; "
        f"install the extra `otel` (`pip install 'cdds[otel]'`), or set {variable} to off\n"
    )


def test_a_process_without_traces_passes_on_those_of_others() -> None:
    with Off().publish([("topic", "type", "00-trace"), ("topic", "type", None)]) as contexts:
        assert contexts == ["00-trace", None]


class Told(Otlp):
    """One that keeps what it is told."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self._provider = TracerProvider()
        self._provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self._tracer = self._provider.get_tracer("test")


@pytest.fixture
def told() -> Iterator[Told]:
    tracer = Told()
    yield tracer
    tracer.stop()


def example(kind: type[Event]) -> Event:
    return EXAMPLES[kind]


def trace_id(context: str | None) -> str:
    assert context is not None
    version, trace, _, sampled = context.split("-")
    assert (version, int(sampled, 16) & 1) == ("00", 1)
    return trace


def test_an_event_belongs_to_the_work_it_is_committed_in(told: Told) -> None:
    with told.span("work", None):
        here = told.here()
        contexts = told.commit([example(JobSuspended), example(RunRequested)])
    assert {trace_id(context) for context in contexts} == {trace_id(here)}
    assert len(set(contexts)) == 2
    [run] = [span for span in told.exporter.get_finished_spans() if span.name == "commit RunRequested"]
    assert run.attributes is not None
    event = example(RunRequested)
    assert isinstance(event, RunRequested)
    assert (run.attributes["cdds.run_id"], run.attributes["cdds.tenant"]) == (str(event.run_id), event.tenant)


def test_an_event_of_no_work_begins_a_trace(told: Told) -> None:
    first, second = told.commit([example(RunRequested), example(RunRequested)])
    assert trace_id(first) != trace_id(second)


def test_a_run_that_waited_for_the_end_of_another_one_is_a_trace_of_its_own(told: Told) -> None:
    with told.span("the run before", None):
        before = told.here()
    with told.handle("end", [before], together=False, topic=EXPORTED_RUNS.name):
        [noted, asked] = told.commit([example(JobSuspended), example(RunRequested)])
    assert trace_id(noted) == trace_id(before)
    assert trace_id(asked) != trace_id(before)
    [run] = [span for span in told.exporter.get_finished_spans() if span.name == "commit RunRequested"]
    assert [trace.format_trace_id(link.context.trace_id) for link in run.links] == [trace_id(before)]


def test_what_the_broker_did_not_take_is_an_error(told: Told) -> None:
    [context] = told.commit([example(RunRequested)])
    with (
        pytest.raises(OSError, match="away"),
        told.publish([("topic", "type", context), ("topic", "type", None)]),
    ):
        raise OSError("away")
    [published] = [span for span in told.exporter.get_finished_spans() if span.name == "publish topic"]
    assert not published.status.is_ok


def test_a_batch_is_linked_to_all_it_has_and_belongs_to_none(told: Told) -> None:
    contexts = told.commit([example(RunRequested), example(JobSuspended)])
    with told.handle("batch", [*contexts, None, "nonsense"], together=True):
        pass
    [batch] = [span for span in told.exporter.get_finished_spans() if span.name == "batch"]
    assert batch.parent is None
    assert [trace.format_trace_id(link.context.trace_id) for link in batch.links][:2] == [
        trace_id(context) for context in contexts
    ]
