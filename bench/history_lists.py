"""How fast history answers lists of executions, whatever they are filtered and sorted by."""

import http.client
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final, TypeAlias
from urllib.parse import urlencode, urlsplit

import orjson

from bench.harness import measured_beside, out, print_table, server_cpu_seconds, server_peak_rss_mib
from bench.history_load import LARGE, PLACES, SMALL, SOURCES, SPAN, TEAMS, TYPES, StoredJob, load
from bench.history_service import running
from deploy.local.kafka import Broker
from deploy.local.postgres import EmbeddedPostgres
from deploy.local.secrets import Secrets
from shared.clock import utc_text

Parameters: TypeAlias = Mapping[str, str | int]

SORTS: Final = (
    "requested_at", "started_at", "finished_at", "duration_seconds", "title", "source", "type", "trigger", "state",
    "rows", "bytes",
)  # fmt: skip
LIMIT: Final = 50
FURTHER_PAGES: Final = 3
WARM_UP_ROUNDS: Final = 2
KINDS_SHOWN: Final = 25
SLOW_SHOWN: Final = 5


async def measure(
    folder: Path, postgres: EmbeddedPostgres, broker: Broker, executions: int, rounds: int, *, kept: bool
) -> dict[str, float]:
    """Ask for every kind of list in turns, one request at a time, half of them of the large tenant."""
    database = f"lists_{executions}"
    jobs = await load(postgres, database, executions)
    secrets = Secrets(folder / "secrets")
    tokens = {tenant: secrets.token(tenant=tenant, role="admin", subject="bench") for tenant in (LARGE, *SMALL)}
    async with running(postgres, database, broker.bootstrap, secrets) as service:
        await service.until_ready()
        before = server_cpu_seconds(service.pid), server_cpu_seconds(postgres.pid)
        asked = await measured_beside(ask, service.url, tokens, jobs, rounds)
        own, postgres_cpu = server_cpu_seconds(service.pid) - before[0], server_cpu_seconds(postgres.pid) - before[1]
        memory = server_peak_rss_mib(service.pid)
    if not kept:
        await postgres.drop_database(database)
    kinds = {kind: sorted(times) for kind, times in asked.value.items()}
    every = sorted(took for times in kinds.values() for took in times)
    slowest = sorted(kinds.items(), key=lambda item: _at(item[1], 0.99), reverse=True)
    print_table(
        f"Lists of {executions:,} executions, pages of {LIMIT}, one request at a time: the slowest of {len(kinds)}",
        ("", "requests", "p50 ms", "p99 ms", "max ms"),
        [_row(kind, times) for kind, times in [("all kinds", every), *slowest[:KINDS_SHOWN]]],
    )
    out.print(
        f"Meanwhile, history took {own:.1f} CPU s and PostgreSQL {postgres_cpu:.1f}; history's peak: {memory:.0f} MiB"
    )
    return {"list_p50_ms": _at(every, 0.5), "list_p99_ms": _at(every, 0.99), "list_peak_rss_mib": memory}


def _row(kind: str, times: Sequence[float]) -> Sequence[str]:
    return kind, f"{len(times):,}", f"{_at(times, 0.5):.1f}", f"{_at(times, 0.99):.1f}", f"{times[-1]:.1f}"


def _at(times: Sequence[float], share: float) -> float:
    return times[min(len(times) - 1, int(len(times) * share))]


# --- in a process of its own ------------------------------------------------------------------------------------------


def ask(url: str, tokens: Mapping[str, str], jobs: Sequence[StoredJob], rounds: int) -> dict[str, list[float]]:
    """Milliseconds that pages of each kind took, the first and the following ones; the warm-up is left out."""
    random = Random(1)
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    jobs_of: dict[str, list[StoredJob]] = defaultdict(list)
    for job in jobs:
        jobs_of[job.tenant].append(job)
    took: dict[str, list[float]] = defaultdict(list)
    slow: list[tuple[float, str]] = []
    now = datetime.now(UTC)

    def page(tenant: str, parameters: Parameters) -> tuple[float, dict[str, Any]]:
        path = f"/api/v1/executions?{urlencode({**parameters, 'limit': LIMIT}, doseq=True)}"
        started = time.perf_counter()
        connection.request("GET", path, headers={"Authorization": f"Bearer {tokens[tenant]}"})
        answer = connection.getresponse()
        body = answer.read()
        milliseconds = 1000 * (time.perf_counter() - started)
        assert answer.status == 200, (path, answer.status, body)
        slow.append((milliseconds, f"{tenant} {path}"))
        return milliseconds, orjson.loads(body)

    def visit(kind: str, tenant: str, parameters: Parameters) -> None:
        asked = parameters
        for _ in range(1 + FURTHER_PAGES):
            milliseconds, answer = page(tenant, asked)
            took[kind].append(milliseconds)
            if answer["next"] is None:
                break
            asked = {**parameters, "after": answer["next"]}

    for number in range(WARM_UP_ROUNDS + rounds):
        if number == WARM_UP_ROUNDS:
            took.clear()
            slow.clear()
        tenant = LARGE if number % 2 else random.choice(SMALL)
        for kind, parameters in _lists(random, jobs_of[tenant], now):
            visit(kind, tenant, parameters)
    for milliseconds, what in sorted(slow, reverse=True)[:SLOW_SHOWN]:
        out.print(f"slow: {milliseconds:.0f} ms {what}", markup=False, soft_wrap=True)
    return dict(took)


def _lists(random: Random, jobs: Sequence[StoredJob], now: datetime) -> Iterator[tuple[str, Parameters]]:
    """One list of each kind."""
    for sort in SORTS:
        for sign in ("-", ""):
            yield f"sort={sign}{sort}", {"sort": sign + sort}
    job = jobs[int(len(jobs) * random.random() ** 2)]
    begin = now - SPAN * random.random()

    def within(span: timedelta) -> Parameters:
        return {"requested_from": utc_text(begin), "requested_to": utc_text(begin + span)}

    source, type_, team = random.choice(SOURCES), random.choice(TYPES), random.choice(TEAMS)
    filters: dict[str, Parameters] = {
        "job_id": {"job_id": str(job.id)},
        "source": {"source": source},
        "type": {"type": type_},
        "state=running": {"state": "running"},
        "state=failed": {"state": "failed"},
        "trigger=backfill": {"trigger": "backfill"},
        "text of a job": {"text": job.title},
        "text of a few": {"text": random.choice(PLACES).upper()},
        "text of none": {"text": "nothing is called so"},
        "label": {"label": f"team:{team}"},
        "a day": within(timedelta(days=1)),
        "a month": within(timedelta(days=30)),
    }
    for name, parameters in filters.items():
        yield name, parameters
    several: dict[str, Parameters] = {
        "job_id, state": {"job_id": str(job.id), "state": "failed"},
        "job_id, a month": {"job_id": str(job.id), **within(timedelta(days=30))},
        "source, type, state": {"source": source, "type": type_, "state": "cancelled"},
        "trigger, state": {"trigger": "retry", "state": "failed"},
        "label, text": {"label": f"team:{team}", "text": random.choice(PLACES)},
        "text, a month": {"text": random.choice(PLACES), **within(timedelta(days=30))},
    }
    for name, parameters in several.items():
        yield name, parameters
    for name, parameters in {**filters, **several}.items():
        sort = random.choice(("-", "")) + random.choice(SORTS)
        yield f"{name}, another order", {**parameters, "sort": sort}
        yield f"{name}, total", {**parameters, "total": "true"}
    yield "total", {"total": "true"}
