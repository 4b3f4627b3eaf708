"""Every (standing, command) pair: by the table, through the store, and over HTTP."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from services.job_api.domain import jobs
from services.job_api.domain.errors import JobError, NotFound, OneTimeNotEditable, OneTimeNotResumable
from services.job_api.domain.transitions import (
    NOTHING_TO_DO,
    ONE_TIME,
    STORED,
    TRANSITIONS,
    Command,
    Standing,
    following,
    markdown,
    standing,
    states_that_allow,
)
from services.job_api.store import Store
from shared.database import Database
from shared.events import Job, JobState, ScheduleCompleted, SchedulePaused
from tests.job_api.jobs import WRITTEN, create, settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "job-states.md"
PAIRS = [pytest.param(now, command, id=f"{now}-{command}") for now in Standing for command in Command]
PEOPLES = [Command.EDIT, Command.SUSPEND, Command.RESUME, Command.RUN, Command.BACKFILL, Command.DELETE]
LATER = datetime(2100, 1, 1, tzinfo=UTC)
EARLIER = datetime(2026, 1, 1, tzinfo=UTC)
REFUSED = {
    NotFound: (404, "not-found"),
    OneTimeNotEditable: (409, "one-time-not-editable"),
    OneTimeNotResumable: (409, "one-time-not-resumable"),
}


def test_the_table_has_every_pair() -> None:
    assert set(TRANSITIONS) == {(now, command) for now in Standing for command in Command}


def test_the_document_is_the_table() -> None:
    """After a change: `python -m services.job_api.domain.transitions > docs/job-states.md`."""
    assert DOCUMENT.read_text() == markdown()


@pytest.mark.parametrize(("now", "command"), PAIRS)
def test_a_pair_leads_somewhere_is_refused_or_is_nothing_to_do(now: Standing, command: Command) -> None:
    outcome = TRANSITIONS[now, command]
    if isinstance(outcome, Standing):
        assert following(now, command) is outcome
        assert (outcome in ONE_TIME) == (now in ONE_TIME) or outcome is Standing.DELETED
        assert STORED[now][0] in states_that_allow(command)
    elif outcome is NOTHING_TO_DO:
        assert following(now, command) is None
    else:
        assert isinstance(outcome, type)
        assert issubclass(outcome, JobError)
        with pytest.raises(outcome):
            following(now, command)


@pytest.mark.parametrize("now", Standing)
def test_a_stored_job_stands_where_it_was_stored(now: Standing) -> None:
    state, reason = STORED[now]
    schedule: dict[str, Any] = {"schedule": {"kind": "once"}, "start": LATER} if now in ONE_TIME else {}
    job = Job(
        id=UUID(int=1), version=1, state=state, suspended_reason=reason, created_at=LATER, updated_at=LATER,
        created_by="alice", settings=settings(**schedule),
    )  # fmt: skip
    assert standing(job) is now


def test_no_update_leads_out_of_a_deleted_job() -> None:
    assert all(JobState.DELETED not in states_that_allow(command) for command in Command)


# --- through store and HTTP ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """A job in a standing, and everything to ask of it."""

    store: Store
    http: httpx.AsyncClient
    database: Database
    job_id: UUID

    async def version(self) -> int:
        async with self.database.session() as connection:
            return await connection.fetchval("SELECT version FROM jobs WHERE id = $1", self.job_id)

    async def standing(self) -> Standing:
        async with self.database.transaction() as connection:
            row = await connection.fetchrow(
                "SELECT state, suspended_reason, settings FROM jobs WHERE id = $1", self.job_id
            )
        assert row
        once = row["settings"]["schedule"]["kind"] == "once"
        return next(
            now for now in Standing
            if STORED[now] == (row["state"], row["suspended_reason"])
            and ((now in ONE_TIME) == once or now is Standing.DELETED)
        )  # fmt: skip

    async def events(self) -> int:
        async with self.database.session() as connection:
            return await connection.fetchval("SELECT count(*) FROM outbox WHERE key = $1", str(self.job_id))

    async def complete(self) -> None:
        event = ScheduleCompleted(occurred_at=LATER, tenant="acme", job_id=self.job_id, job_version=1)
        await self.store.follow(self.job_id, lambda facts: jobs.complete(facts, event))

    async def pause(self) -> None:
        event = SchedulePaused(
            occurred_at=EARLIER, tenant="acme", job_id=self.job_id, job_version=await self.version(), failures=3
        )
        await self.store.follow(self.job_id, lambda facts: jobs.pause(facts, event))

    async def ask(self, command: Command) -> httpx.Response:
        path, match = f"/api/v1/jobs/{self.job_id}", {"If-Match": f'"{await self.version()}"'}
        yesterday = datetime.now(UTC) - timedelta(days=1)
        match command:
            case Command.EDIT:
                return await self.http.put(path, json={**WRITTEN, "title": "Another"}, headers=match)
            case Command.DELETE:
                return await self.http.delete(path, headers=match)
            case Command.BACKFILL:
                body = {"from": yesterday.isoformat(), "to": (yesterday + timedelta(hours=8)).isoformat()}
                return await self.http.post(f"{path}/backfill", json=body, headers=match)
            case _:
                return await self.http.post(f"{path}/{command}", headers=match)


Brought = Callable[[Standing], Awaitable[Bench]]


@pytest.fixture
def brought(store: Store, http: httpx.AsyncClient, database: Database) -> Brought:
    """`await brought(Standing.HELD)`: a job that stands there."""

    async def bring(now: Standing) -> Bench:
        once: dict[str, Any] = {"schedule": {"kind": "once"}, "start": LATER} if now in ONE_TIME else {}
        job = await create(store, **once)
        bench = Bench(store, http, database, job.id)
        match now:
            case Standing.ACTIVE | Standing.WAITING:
                pass
            case Standing.SUSPENDED | Standing.HELD:
                await bench.ask(Command.SUSPEND)
            case Standing.PAUSED:
                await bench.pause()
            case Standing.DONE:
                await bench.complete()
            case Standing.DELETED:
                await bench.ask(Command.DELETE)
        assert await bench.standing() is now
        return bench

    return bring


@pytest.mark.parametrize(("now", "command"), PAIRS)
async def test_store_and_http_do_what_the_table_says(brought: Brought, now: Standing, command: Command) -> None:
    bench = await brought(now)
    outcome, version, events = TRANSITIONS[now, command], await bench.version(), await bench.events()
    answer: httpx.Response | None = None
    if command is Command.COMPLETE:
        await bench.complete()
    elif command is Command.PAUSE:
        await bench.pause()
    else:
        answer = await bench.ask(command)
    written = (await bench.version() - version, await bench.events() - events)
    if isinstance(outcome, Standing):
        assert await bench.standing() is outcome
        assert written == ((0, 1) if command in (Command.RUN, Command.BACKFILL) else (1, 1))
        assert answer is None or answer.is_success
    else:
        assert await bench.standing() is now
        assert written == (0, 0)
    if answer is not None and outcome is NOTHING_TO_DO:
        assert (answer.status_code, answer.json()["version"]) == (200, version)
    if answer is not None and isinstance(outcome, type):
        assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == REFUSED[outcome]


async def test_a_pause_of_an_older_version_changes_nothing(brought: Brought) -> None:
    bench = await brought(Standing.ACTIVE)
    event = SchedulePaused(occurred_at=EARLIER, tenant="acme", job_id=bench.job_id, job_version=1, failures=3)
    await bench.ask(Command.EDIT)
    assert not await bench.store.follow(bench.job_id, lambda facts: jobs.pause(facts, event))
    assert await bench.standing() is Standing.ACTIVE


@pytest.mark.parametrize("command", [c for c in PEOPLES if c not in (Command.RUN, Command.BACKFILL)])
async def test_what_is_gone_is_not_found_whatever_version_was_read(brought: Brought, command: Command) -> None:
    bench = await brought(Standing.DELETED)
    answer = await bench.http.get(f"/api/v1/jobs/{bench.job_id}")
    assert answer.status_code == 404
    assert (await bench.ask(command)).status_code == 404
