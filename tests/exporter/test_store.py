import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from services.exporter.domain import Claim, Failure, artifact_id, manifest_id, schema_id
from services.exporter.store import Fenced, Store
from shared.database import Connection, Database
from shared.events import CertificateAdded, CertificateRemoved
from tests.exporter.runs import (
    LEASE,
    SCHEMA,
    SLOT,
    TERMINAL,
    cancel_order,
    claimed,
    digest,
    everything,
    expire_lease,
    names,
    outcome,
    published,
    requested,
    run_row,
    seal,
)

REPEATABLE = Failure("export_failed", "The source went away.", repeatable=True)
HOPELESS = Failure("source_refused", "There is no such table.", repeatable=False)

ACTIONS: list[Callable[[Store, Claim], Awaitable[Any]]] = [
    lambda store, claim: store.beat(claim, LEASE),
    lambda store, claim: store.succeed(claim, outcome(claim), seal),
    lambda store, claim: store.fail_attempt(claim, REPEATABLE),
    lambda store, claim: store.fail_attempt(claim, HOPELESS),
    lambda store, claim: store.hand_over(claim),
    lambda store, claim: store.cancel(claim),
]


# --- queueing -----------------------------------------------------------------------------------------------------


async def test_a_request_delivered_twice_is_one_run_and_one_event(store: Store, database: Database) -> None:
    request = requested()

    assert await store.queue_run(request)
    assert not await store.queue_run(request)

    run = await run_row(database, request.run_id)
    assert (run["state"], run["version"], run["attempt"], run["attempts_allowed"]) == ("queued", 1, 0, 3)
    (event,) = await published(database)
    assert (type(event).__name__, event.run_id, event.version) == ("RunQueued", request.run_id, 1)


async def test_a_request_delivered_at_the_same_time_to_many_is_one_run(store: Store, database: Database) -> None:
    request = requested()

    new = await asyncio.gather(*(store.queue_run(request) for _ in range(10)))

    assert sorted(new) == [False] * 9 + [True]
    assert names(await published(database)) == ["RunQueued"]


# --- claims -------------------------------------------------------------------------------------------------------


async def test_attempts_are_counted_and_each_one_starts_with_an_event(store: Store, database: Database) -> None:
    request = requested()
    await store.queue_run(request)

    for attempt in (1, 2, 3):
        claim = await store.claim_run("w1", LEASE)
        assert claim == Claim(request, attempt, attempts_allowed=3)
        assert await store.fail_attempt(claim, REPEATABLE) == ("failed" if attempt == 3 else "queued")

    assert await store.claim_run("w1", LEASE) is None
    events = await published(database)
    assert names(events) == ["RunQueued", *["RunStarted", "RunAttemptFailed"] * 2, "RunStarted", "RunFailed"]
    assert [(e.attempt, e.worker) for e in events if type(e).__name__ == "RunStarted"] == [
        (1, "w1"),
        (2, "w1"),
        (3, "w1"),
    ]


async def test_the_oldest_run_is_claimed_first(store: Store) -> None:
    requests = [requested() for _ in range(5)]
    for request in requests:
        await store.queue_run(request)

    claims = [await store.claim_run("w1", LEASE) for _ in requests]

    assert [claim.request for claim in claims if claim] == requests


async def test_claimers_at_the_same_time_never_get_the_same_run(store: Store, database: Database) -> None:
    requests = [requested() for _ in range(100)]
    await asyncio.gather(*(store.queue_run(request) for request in requests))

    async def claim_all(worker: str) -> list[Claim]:
        claims: list[Claim] = []
        while claim := await store.claim_run(worker, LEASE):
            claims.append(claim)
        return claims

    taken = [claim for claims in await asyncio.gather(*(claim_all(f"w{n}") for n in range(8))) for claim in claims]

    assert sorted(claim.run_id for claim in taken) == sorted(request.run_id for request in requests)
    assert {claim.attempt for claim in taken} == {1}
    assert names(await published(database)).count("RunStarted") == 100


async def test_a_run_with_an_expired_lease_becomes_a_new_attempt(store: Store, database: Database) -> None:
    lost = await claimed(store, requested())
    assert await store.claim_run("second", LEASE) is None
    await expire_lease(database, lost.run_id)

    claim = await store.claim_run("second", LEASE)

    assert claim == Claim(lost.request, 2, attempts_allowed=3)
    events = (await published(database))[1:]
    assert names(events) == ["RunStarted", "RunAttemptFailed", "RunStarted"]
    assert [(e.attempt, e.version) for e in events] == [(1, 2), (1, 3), (2, 4)]
    assert events[1].reason == "worker_lost"
    assert (await run_row(database, lost.run_id))["worker"] == "second"


async def test_an_expired_lease_is_taken_over_once(store: Store, database: Database) -> None:
    lost = await claimed(store, requested())
    await expire_lease(database, lost.run_id)

    claims = await asyncio.gather(*(store.claim_run(f"w{n}", LEASE) for n in range(8)))

    assert [claim.attempt for claim in claims if claim] == [2]


async def test_a_beat_keeps_the_lease(store: Store, database: Database) -> None:
    claim = await claimed(store, requested())
    await expire_lease(database, claim.run_id)

    await store.beat(claim, LEASE)

    assert await store.claim_run("second", LEASE) is None


async def test_a_run_whose_last_attempt_was_lost_fails_once_and_the_next_one_is_claimed(
    store: Store, database: Database
) -> None:
    lost = await claimed(store, requested(attempts=1))
    other = requested()
    await store.queue_run(other)
    await expire_lease(database, lost.run_id)

    claims = await asyncio.gather(*(store.claim_run(f"w{n}", LEASE) for n in range(4)))

    assert [claim.request for claim in claims if claim] == [other]
    (failed,) = [e for e in await published(database, lost.run_id) if type(e).__name__ in TERMINAL]
    assert (type(failed).__name__, failed.reason, failed.attempt) == ("RunFailed", "worker_lost", 1)
    assert (await run_row(database, lost.run_id))["state"] == "failed"


async def test_the_backoff_is_waited_for(store: Store, database: Database) -> None:
    claim = await claimed(store, requested(backoff=timedelta(minutes=5)))

    assert await store.fail_attempt(claim, REPEATABLE) == "queued"

    assert await store.claim_run("w1", LEASE) is None
    run = await run_row(database, claim.run_id)
    async with database.transaction() as connection:
        wait = await connection.fetchval("SELECT $1 - now()", run["not_before"])
        assert timedelta(minutes=4) < wait <= timedelta(minutes=5)
        await connection.execute("UPDATE runs SET not_before = now()")
    again = await store.claim_run("w1", LEASE)
    assert again is not None
    assert again.attempt == 2


async def test_a_run_that_waits_does_not_hold_up_younger_ones(store: Store) -> None:
    await store.fail_attempt(await claimed(store, requested(backoff=timedelta(minutes=5))), REPEATABLE)

    assert await claimed(store, requested())


async def test_handing_over_does_not_spend_an_attempt(store: Store, database: Database) -> None:
    await store.queue_run(requested(attempts=1, backoff=timedelta(minutes=5)))

    for attempt in (1, 2, 3):
        claim = await store.claim_run("w1", LEASE)
        assert claim is not None
        assert (claim.attempt, claim.is_last) == (attempt, True)
        await store.hand_over(claim)
    last = await store.claim_run("w1", LEASE)
    assert last is not None
    assert await store.fail_attempt(last, REPEATABLE) == "failed"

    events = await published(database)
    assert [e.reason for e in events if type(e).__name__ == "RunAttemptFailed"] == ["worker_stopped"] * 3
    assert names(events)[-1] == "RunFailed"


async def test_a_failure_that_can_not_pass_ends_the_run_at_once(store: Store, database: Database) -> None:
    claim = await claimed(store, requested(attempts=3))

    assert await store.fail_attempt(claim, HOPELESS) == "failed"

    assert names(await published(database)) == ["RunQueued", "RunStarted", "RunFailed"]


async def test_the_claim_takes_a_few_steps_along_an_index_past_any_number_of_runs(
    store: Store, database: Database
) -> None:
    async with database.session() as connection:
        await connection.execute(
            """INSERT INTO runs (run_id, job_id, tenant, lane, source, request, state, attempts_allowed, finished_at)
               SELECT gen_random_uuid(), gen_random_uuid(), 't', 'manual', 'ucs', '{}', 'succeeded', 3, now()
               FROM generate_series(1, 20000)"""
        )
        await connection.execute(
            """INSERT INTO runs (run_id, job_id, tenant, lane, source, request, state, attempts_allowed, not_before)
               SELECT gen_random_uuid(), gen_random_uuid(), 't' || i % 5, 'manual', 'ucs', $1, 'queued', 3,
                      now() + interval '1 s' * CASE WHEN i <= 5000 THEN 3600 ELSE -1 END
               FROM generate_series(1, 100000) i""",
            requested().model_dump(mode="json"),
        )
        async with connection.transaction():
            await connection.execute("SET LOCAL ROLE NONE")  # the login role owns the table
            await connection.execute("ANALYZE runs")
        statements: list[Any] = []
        note = statements.append
        connection.add_query_logger(note)
    # The pool hands out the connection that was returned last.
    assert await store.claim_run("w1", LEASE, limits={"ucs": 9})

    (lost,) = [logged for logged in statements if "SKIP LOCKED" in logged.query]
    (chosen,) = [logged for logged in statements if "candidates" in logged.query]
    async with database.transaction() as connection:
        connection.remove_query_logger(note)
        plan = await explained(connection, lost)
        assert "Index Scan using runs_running" in plan
        assert "Seq Scan" not in plan
        plan = await explained(connection, chosen)
        assert "Index Only Scan using runs_queued" in plan
        assert "Seq Scan on runs" not in plan
        pages = re.search(r"^  Buffers: shared hit=(\d+)", plan, re.MULTILINE)
        assert pages is not None
        # Of five tenants the oldest 1,000 runs each wait for their backoff; they are passed inside the index.
        assert int(pages[1]) < 200


async def explained(connection: Connection, logged: Any) -> str:
    rows = await connection.fetch("EXPLAIN (ANALYZE, BUFFERS) " + logged.query, *logged.args)
    return "\n".join(row[0] for row in rows)


# --- fencing ------------------------------------------------------------------------------------------------------


async def _requeued(store: Store, database: Database, claim: Claim) -> None:
    await store.fail_attempt(claim, REPEATABLE)


async def _taken_over(store: Store, database: Database, claim: Claim) -> None:
    await expire_lease(database, claim.run_id)
    assert await store.claim_run("second", LEASE)


async def _succeeded(store: Store, database: Database, claim: Claim) -> None:
    await store.succeed(claim, outcome(claim), seal)


async def _failed(store: Store, database: Database, claim: Claim) -> None:
    await store.fail_attempt(claim, HOPELESS)


async def _cancelled(store: Store, database: Database, claim: Claim) -> None:
    await store.order_cancel(cancel_order(claim.request))
    await store.cancel(claim)


@pytest.mark.parametrize("become", [_requeued, _taken_over, _succeeded, _failed, _cancelled])
async def test_an_attempt_that_does_not_hold_its_run_changes_nothing(
    store: Store, database: Database, become: Callable[[Store, Database, Claim], Awaitable[None]]
) -> None:
    claim = await claimed(store, requested())
    await become(store, database, claim)
    before = await everything(database)

    for action in ACTIONS:
        with pytest.raises(Fenced):
            await action(store, claim)

    assert await everything(database) == before


@pytest.mark.parametrize("become", [_succeeded, _failed, _cancelled])
async def test_a_finished_run_is_neither_claimed_nor_queued_again(
    store: Store, database: Database, become: Callable[[Store, Database, Claim], Awaitable[None]]
) -> None:
    claim = await claimed(store, requested())
    await become(store, database, claim)
    before = await everything(database)

    assert await store.claim_run("second", LEASE) is None
    assert not await store.queue_run(claim.request)
    await store.order_cancel(cancel_order(claim.request))

    assert await everything(database) == before


async def test_success_and_takeover_at_the_same_time_have_one_winner(store: Store, database: Database) -> None:
    async def finish(claim: Claim) -> bool:
        try:
            await store.succeed(claim, outcome(claim), seal)
        except Fenced:
            return False
        return True

    for round_ in range(30):
        first = await claimed(store, requested(job_id=uuid4()))
        await expire_lease(database, first.run_id)
        racers = [finish(first), store.claim_run("second", LEASE)]
        results = await asyncio.gather(*(racers if round_ % 2 else reversed(racers)))
        won, second = results if round_ % 2 else reversed(results)
        assert won is (second is None)
        if second is not None:
            assert second.attempt == 2
            assert await finish(second)
        winner = second or first
        run = await run_row(database, first.run_id)
        assert (run["state"], run["attempt"]) == ("succeeded", winner.attempt)
        async with database.transaction() as connection:
            keys = await connection.fetch("SELECT object_key FROM artifacts WHERE run_id = $1", first.run_id)
        assert {row["object_key"] for row in keys} == {file.object_key for file in outcome(winner).files}
        assert names(await published(database, first.run_id)).count("RunSucceeded") == 1


# --- success ------------------------------------------------------------------------------------------------------


async def test_success_makes_files_manifest_and_events_visible(store: Store, database: Database) -> None:
    claim = await claimed(store, requested())
    bodies: list[bytes] = []

    def sealing(now: datetime, previous: str | None) -> bytes:
        bodies.append(seal(now, previous))
        return bodies[-1]

    await store.succeed(claim, outcome(claim), sealing)

    rows = await everything(database)
    (run,) = rows["runs"]
    assert (run["state"], run["worker"], run["lease_until"]) == ("succeeded", None, None)
    assert run["finished_at"] is not None
    assert [(a["number"], a["tenant"], a["state"]) for a in sorted(rows["artifacts"], key=lambda a: a["number"])] == [
        (1, "t1", "available"),
        (2, "t1", "available"),
    ]
    manifest, schema = sorted(rows["documents"], key=lambda document: document["kind"])
    assert (manifest["document_id"], manifest["body"]) == (manifest_id(claim.run_id), bodies[0])
    assert (schema["document_id"], schema["body"]) == (schema_id(claim.run_id), SCHEMA)
    assert (schema["kind"], schema["sha256"]) == ("schema", digest(SCHEMA))
    (head,) = rows["chain_heads"]
    assert head["manifest_sha256"] == manifest["sha256"] == digest(bodies[0])
    *stored, succeeded = (await published(database))[2:]
    assert names(stored) == ["ArtifactStored"] * 2
    assert [event.part.artifact_id for event in stored] == [artifact_id(claim.run_id, 1, n) for n in (1, 2)]
    assert {event.part.entity for event in stored} == {"Interaction"}
    assert {event.expires_at - event.occurred_at for event in stored} == {timedelta(days=30)}
    assert (type(succeeded).__name__, succeeded.parts, succeeded.rows) == ("RunSucceeded", 2, 30)
    assert (succeeded.manifest_id, succeeded.manifest_sha256) == (manifest["document_id"], digest(bodies[0]))
    assert succeeded.schema_id == schema["document_id"]
    assert await store.published(claim)


async def test_a_manifest_that_can_not_be_sealed_leaves_everything_as_it_was(store: Store, database: Database) -> None:
    claim = await claimed(store, requested())
    before = await everything(database)

    def broken(now: datetime, previous: str | None) -> bytes:
        raise RuntimeError("the key is gone")

    with pytest.raises(RuntimeError, match="key is gone"):
        await store.succeed(claim, outcome(claim), broken)

    assert await everything(database) == before
    assert not await store.published(claim)
    await store.succeed(claim, outcome(claim), seal)


async def test_files_that_can_not_be_written_down_leave_everything_as_it_was(store: Store, database: Database) -> None:
    claim = await claimed(store, requested())
    before = await everything(database)
    whole = outcome(claim)
    twice = replace(whole, files=(whole.files[0], whole.files[0]))

    with pytest.raises(asyncpg.UniqueViolationError):
        await store.succeed(claim, twice, seal)

    assert await everything(database) == before


async def test_each_manifest_names_the_one_before_it_in_its_job(store: Store) -> None:
    job_id, seen = uuid4(), []

    def sealing(now: datetime, previous: str | None) -> bytes:
        body = seal(now, previous)
        seen.append((previous, digest(body)))
        return body

    for _ in range(3):
        claim = await claimed(store, requested(job_id=job_id))
        await store.succeed(claim, outcome(claim), sealing)
    other = await claimed(store, requested())
    await store.succeed(other, outcome(other), sealing)

    (first, first_hash), (second, second_hash), (third, _), (of_another_job, _) = seen
    assert (first, second, third, of_another_job) == (None, first_hash, second_hash, None)


async def test_runs_of_one_job_that_end_together_chain_one_after_the_other(store: Store, database: Database) -> None:
    job_id = uuid4()
    claims = [await claimed(store, requested(job_id=job_id)) for _ in range(8)]

    await asyncio.gather(*(store.succeed(claim, outcome(claim), seal) for claim in claims))

    async with database.transaction() as connection:
        bodies = [row["body"] for row in await connection.fetch("SELECT body FROM documents WHERE kind = 'manifest'")]
        head = await connection.fetchval("SELECT manifest_sha256 FROM chain_heads")
    before = {digest(body): body.decode().partition(" ")[0] for body in bodies}
    chain = [head]
    while (previous := before[chain[-1]]) != "None":
        chain.append(previous)
    assert len(chain) == len(set(chain)) == 8


async def test_versions_grow_by_one_and_a_finished_run_has_one_terminal_event(store: Store, database: Database) -> None:
    succeeding, failing, losing = requested(), requested(attempts=2), requested(attempts=2)
    claim = await claimed(store, succeeding)
    await store.fail_attempt(claim, REPEATABLE)
    claim = await store.claim_run("w1", LEASE)
    assert claim is not None
    await store.hand_over(claim)
    claim = await store.claim_run("w1", LEASE)
    assert claim is not None
    await store.succeed(claim, outcome(claim), seal)
    await store.fail_attempt(await claimed(store, failing), HOPELESS)
    await claimed(store, losing)
    for _ in range(2):
        await expire_lease(database, losing.run_id)
        await store.claim_run("w2", LEASE)

    for request, state in ((succeeding, "succeeded"), (failing, "failed"), (losing, "failed")):
        events = await published(database, request.run_id)
        run = await run_row(database, request.run_id)
        assert run["state"] == state
        assert sorted({event.version for event in events}) == list(range(1, run["version"] + 1))
        assert [event.version for event in events] == sorted(event.version for event in events)
        assert [name for name in names(events) if name in TERMINAL] == [f"Run{state.title()}"]
        assert names(events)[-1] in TERMINAL


# --- certificates -------------------------------------------------------------------------------------------------


def added(fingerprint: str, *, at: datetime = SLOT, tenant: str = "t1") -> CertificateAdded:
    return CertificateAdded(
        occurred_at=at, tenant=tenant, fingerprint=fingerprint, actor="a", pem=f"pem {fingerprint}", not_after=SLOT
    )


def removed(fingerprint: str, *, at: datetime) -> CertificateRemoved:
    return CertificateRemoved(occurred_at=at, tenant="t1", fingerprint=fingerprint, actor="a")


async def test_recipients_are_the_tenants_certificates_all_or_the_named_ones(store: Store) -> None:
    for event in (added("a"), added("b"), added("c", tenant="t2")):
        await store.keep_certificate(event)

    assert await store.recipients("t1", None) == ["pem a", "pem b"]
    assert await store.recipients("t1", ["b", "c"]) == ["pem b"]
    assert await store.recipients("t3", None) == []


async def test_the_newest_word_about_a_certificate_counts_in_whatever_order_it_comes(store: Store) -> None:
    later, latest = SLOT + timedelta(seconds=1), SLOT + timedelta(seconds=2)
    for event in (removed("a", at=later), added("a"), added("b"), added("b", at=latest), removed("b", at=later)):
        await store.keep_certificate(event)

    assert await store.recipients("t1", None) == ["pem b"]

    await store.keep_certificate(added("a", at=latest))
    assert await store.recipients("t1", None) == ["pem a", "pem b"]


# --- the schema's own promises ------------------------------------------------------------------------------------


DOOMED = "deletion_reason = 'expired', deletion_actor = 'x', deletion_due_at = now()"

# What is done to a running run, or to the files of a finished one, and which constraint refuses it.
CONTRADICTIONS = [
    ("UPDATE runs SET state = 'aborting', worker = NULL, lease_until = NULL WHERE run_id = $1", "runs_state"),
    ("UPDATE runs SET worker = NULL WHERE run_id = $1", "runs_leased"),
    ("UPDATE runs SET lease_until = NULL WHERE run_id = $1", "runs_leased"),
    ("UPDATE runs SET state = 'queued' WHERE run_id = $1", "runs_leased"),
    ("UPDATE runs SET finished_at = now() WHERE run_id = $1", "runs_finished"),
    ("UPDATE runs SET state = 'failed', worker = NULL, lease_until = NULL WHERE run_id = $1", "runs_finished"),
    (
        "UPDATE runs SET state = 'cancelled', worker = NULL, lease_until = NULL, finished_at = now() WHERE run_id = $1",
        "runs_cancel_ordered",
    ),
    (
        "UPDATE runs SET state = 'queued', worker = NULL, lease_until = NULL, cancel_ordered_by = 'x' "
        "WHERE run_id = $1",
        "runs_cancel_ordered",
    ),
    (f"UPDATE artifacts SET state = 'lost', {DOOMED} WHERE run_id <> $1", "artifacts_state"),
    ("UPDATE artifacts SET state = 'deleting' WHERE run_id <> $1", "artifacts_deletion"),
    (f"UPDATE artifacts SET {DOOMED} WHERE run_id <> $1", "artifacts_deletion"),
    (
        f"UPDATE artifacts SET state = 'deleting', {DOOMED.replace('expired', 'lost')} WHERE run_id <> $1",
        "artifacts_deletion_reason",
    ),
    (f"UPDATE artifacts SET state = 'deleted', {DOOMED} WHERE run_id <> $1", "artifacts_deleted"),
    ("UPDATE artifacts SET deleted_at = now() WHERE run_id <> $1", "artifacts_deleted"),
    ("UPDATE artifacts SET number = 1 WHERE run_id <> $1", "artifacts_number"),
    ("UPDATE artifacts SET run_id = gen_random_uuid() WHERE run_id <> $1", "artifacts_run"),
    ("UPDATE documents SET run_id = gen_random_uuid() WHERE run_id <> $1", "documents_run"),
    ("UPDATE documents SET kind = 'note' WHERE run_id <> $1", "documents_kind"),
    ("UPDATE documents SET kind = 'schema' WHERE run_id <> $1", "documents_once"),
]


async def test_rows_that_contradict_themselves_are_refused(store: Store, database: Database) -> None:
    done = await claimed(store, requested())
    await store.succeed(done, outcome(done), seal)
    running = await claimed(store, requested())

    for change, constraint in CONTRADICTIONS:
        with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refused:
            async with database.transaction() as connection:
                await connection.execute(change, running.run_id)
        assert refused.value.constraint_name == constraint, change


async def test_what_is_not_over_is_never_deleted(store: Store, database: Database) -> None:
    await claimed(store, requested())

    for table in ("runs", "outbox"):
        async with database.transaction() as connection:
            before = await connection.fetchval(f"SELECT count(*) FROM {table}")
            assert before > 0
            assert await connection.execute(f"DELETE FROM {table}") == "DELETE 0"


async def test_heads_of_chains_and_certificates_are_never_deleted(store: Store, database: Database) -> None:
    await claimed(store, requested())

    for table in ("chain_heads", "certificates"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with database.transaction() as connection:
                await connection.execute(f"DELETE FROM {table}")
