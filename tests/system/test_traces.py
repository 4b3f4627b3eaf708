"""One run is one trace through all services and one story in their logs; a collector that is away harms nothing."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.local import data
from deploy.local.stack import SERVICES, SOURCES_DATABASE, Options, Stack
from tests.system.collector import Collector, Span, collecting
from tests.system.driver import Row, Tenant, eventually, tenant

WAITING: Row = {
    "type": "contact", "schedule": {"kind": "monthly", "day": 15, "at": "12:30"}, "start": None,
    "retry": {"attempts": 1}, "timeframe": {"kind": "all"},
}  # fmt: skip


def told(endpoint: str) -> dict[str, str]:
    """The settings of services that are traced, and write their log as in production."""
    return {
        **{f"CDDS_{name.upper()}_TRACES": "otlp" for name in SERVICES},
        **{f"CDDS_{name.upper()}_LOG_FORMAT": "json" for name in SERVICES},
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }  # fmt: skip


async def run_now(who: Tenant) -> Row:
    """The execution of a run that was asked for by hand."""
    job = await who.submit(**WAITING)
    answer = await who.api.post(f"/jobs/{job['id']}/run")
    assert answer.status_code == 202, answer.text
    return await who.succeeded(job)


async def test_a_run_is_one_trace_and_one_story_and_needs_no_collector() -> None:
    lines: list[tuple[str, str]] = []
    with TemporaryDirectory(prefix="cdds-test-", ignore_cleanup_errors=True) as folder, collecting() as collector:
        options = Options(data=Path(folder) / "data", environment=told(collector.endpoint))
        async with Stack(options, output=lambda name, line: lines.append((name, line))) as stack:
            await data.create_schema(stack.dsn(SOURCES_DATABASE))
            await data.load_contacts(stack.dsn(SOURCES_DATABASE), "ucs", rows=10)
            async with tenant(stack, "acme") as acme:
                run_id = (await run_now(acme))["run_id"]
                await eventually(lambda: seen(collector, run_id), what="the spans of the run")
                assert_one_trace(collector.spans, run_id)
                assert_one_story(lines, run_id, trace_of(collector.spans, run_id))
                await eventually(lambda: retried(acme, run_id), what="job_api to know the run's end")
                line = await eventually(lambda: command(lines, "run.retry"), what="the command in the log")
                assert (line["run_id"], line["tenant"]) == (run_id, "acme")
                collector.close()
                await run_now(acme)
                await stack.restart("exporter")  # which ends in time, whatever it has not sent
                await run_now(acme)


async def seen(collector: Collector, run_id: str) -> bool:
    """Whether history has told that it has taken the run's end, and every service all it did about it."""
    ends = {span.id for span in of(collector.spans, "publish exporter.runs.v1") if ended(span)}
    taken = any(ends.intersection(span.links) for span in collector.spans if span.service == "cdds-history")
    return taken and len(roots(inside(collector.spans, run_id))) == 1


async def retried(tenant: Tenant, run_id: str) -> bool:
    """Whether the run is requested again; it can't be before job_api has heard of its end."""
    answer = await tenant.api.post(f"/runs/{run_id}/retry")
    assert answer.status_code in (202, 409), answer.text
    return answer.status_code == 202


async def command(lines: Sequence[tuple[str, str]], name: str) -> Row | None:
    """The line that job_api wrote about a command."""
    read = [json.loads(line) for service, line in lines if service == "job_api" and line.startswith("{")]
    return next((line for line in read if line.get("command") == name), None)


def ended(span: Span) -> bool:
    return span.attributes.get("cdds.type") == "cdds.RunSucceeded.v1"


def of(spans: Sequence[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


def trace_of(spans: Sequence[Span], run_id: str) -> str:
    told = [span for span in spans if span.attributes.get("cdds.run_id") == run_id and span.service != "cdds-history"]
    [trace] = {span.trace for span in told}
    return trace


def inside(spans: Sequence[Span], run_id: str) -> dict[str, Span]:
    """The spans of the run's trace by their ids."""
    trace = trace_of(spans, run_id)
    return {span.id: span for span in spans if span.trace == trace}


def roots(trace: Mapping[str, Span]) -> list[Span]:
    """What is below nothing; also what came before the span that it is below, which is told when it has ended."""
    return [span for span in trace.values() if span.parent not in trace]


def assert_one_trace(spans: Sequence[Span], run_id: str) -> None:
    """From the person's request to the end of the run, each step below the one that caused it."""
    trace = inside(spans, run_id)
    [root] = roots(trace)
    assert (root.service, root.parent, root.attributes["http.request.method"]) == ("cdds-console", "", "POST")
    assert {span.service for span in trace.values()} == {f"cdds-{name}" for name in SERVICES if name != "history"}

    def path(span: Span) -> list[str]:
        above = trace.get(span.parent)
        return [*(path(above) if above else []), f"{span.service.removeprefix('cdds-')}: {span.name}"]

    [attempt] = of(list(trace.values()), "attempt")
    ids = {name: attempt.attributes[f"cdds.{name}"] for name in ("run_id", "tenant", "attempt", "source", "type")}
    assert ids == {"run_id": run_id, "tenant": "acme", "attempt": 1, "source": "ucs", "type": "contact"}
    assert path(attempt)[-7:] == [
        "job_api: commit RunNowRequested", "job_api: publish job_api.jobs.v1", "scheduler: handle job_api.jobs.v1",
        "scheduler: commit RunRequested", "scheduler: publish scheduler.runs.v1", "exporter: handle scheduler.runs.v1",
        "exporter: attempt",
    ]  # fmt: skip
    [end] = of(list(trace.values()), "commit RunSucceeded")
    assert path(end)[:-1] == path(attempt), "what the attempt commits belongs to it"
    statements = [span for span in trace.values() if "db.statement" in span.attributes]
    assert {span.service for span in statements} >= {"cdds-job_api", "cdds-scheduler", "cdds-exporter"}
    assert not [span for span in spans if "db.statement" in span.attributes and not span.parent], "loops are silent"
    projecting = [span for span in spans if span.service == "cdds-history" and span.name.startswith("handle ")]
    linked = {link for span in projecting for link in span.links}
    assert {span.id for span in trace.values() if ended(span)} <= linked
    assert all(span.parent == "" for span in projecting), "a batch belongs to no one run"
    known = {"http.target", "http.url", "url.full", "url.path", "url.query"}
    told = [str(span.attributes.get(name, "")) for span in spans for name in known]
    assert not [text for text in told if "/health" in text or "/metrics" in text or "sign-in" in text]


def assert_one_story(lines: Sequence[tuple[str, str]], run_id: str, trace: str) -> None:
    """What grepping for the run gives."""
    found = [(service, json.loads(line)) for service, line in lines if run_id in line and line.startswith("{")]
    assert [(service, line["event"]) for service, line in found] == [
        ("scheduler", "run requested"), ("exporter", "attempt started"), ("exporter", "run succeeded"),
    ]  # fmt: skip
    for _, line in found:
        assert (line["run_id"], line["tenant"], line["trace_id"]) == (run_id, "acme", trace)
        assert len(line["span_id"]) == 16
    assert [line["attempt"] for service, line in found if service == "exporter"] == [1, 1]
