"""The invariants of `docs/`, each a query over all schemas that must give nothing once a stack has settled."""

from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
import orjson
from aiokafka import AIOKafkaConsumer, ConsumerRecord

from deploy.local.stack import Stack
from shared.events import TOPICS
from tests.system.driver import Export, eventually

SETTLED_WITHIN = timedelta(seconds=90)

TERMINAL_TYPES = "'cdds.RunSucceeded.v1', 'cdds.RunFailed.v1', 'cdds.RunCancelled.v1'"

QUERIES = {
    "a job submitted to run at once has no slot": """
        SELECT id FROM job_api.jobs
        WHERE settings->>'start' = 'immediately'
          AND NOT EXISTS (SELECT FROM scheduler.slots WHERE job_id = id AND trigger = 'immediate')
    """,
    "a job whose start has passed has no slot": """
        SELECT id FROM job_api.jobs
        WHERE settings->'schedule'->>'kind' = 'once' AND settings->>'start' <> 'immediately'
          AND (settings->>'start')::timestamptz < now() - interval '1 second'
          AND NOT EXISTS (SELECT FROM scheduler.slots WHERE job_id = id AND trigger = 'schedule')
    """,
    "a requested slot has no run": """
        SELECT s.run_id FROM scheduler.slots s LEFT JOIN exporter.runs r USING (run_id)
        WHERE s.outcome = 'requested' AND r.run_id IS NULL
    """,
    "a run belongs to no slot": """
        SELECT r.run_id FROM exporter.runs r LEFT JOIN scheduler.slots s USING (run_id) WHERE s.run_id IS NULL
    """,
    "a slot was not requested exactly once": """
        SELECT s.run_id, count(o.id) FROM scheduler.slots s
        LEFT JOIN scheduler.outbox o ON o.type = 'cdds.RunRequested.v1' AND (o.value::json->>'run_id')::uuid = s.run_id
        WHERE s.outcome = 'requested' GROUP BY s.run_id HAVING count(o.id) <> 1
    """,
    "a slot still waits": """
        SELECT job_id, slot_key FROM scheduler.slots WHERE outcome = 'waiting'
    """,
    "the scheduler knows another end of a run than the exporter": """
        SELECT run_id, s.run_state, r.state FROM scheduler.slots s JOIN exporter.runs r USING (run_id)
        WHERE s.run_state <> r.state
    """,
    "job_api knows another outcome of a slot than the scheduler": """
        SELECT run_id, s.outcome, r.state FROM scheduler.slots s FULL JOIN job_api.runs r USING (run_id)
        WHERE s.outcome <> 'missed'
          AND (s.outcome = 'skipped') IS DISTINCT FROM (r.state = 'skipped')
    """,
    "a one-time job is not done after its slot": """
        SELECT id, state, suspended_reason FROM job_api.jobs
        WHERE settings->'schedule'->>'kind' = 'once' AND EXISTS (SELECT FROM scheduler.slots WHERE job_id = id)
          AND state <> 'deleted'
          AND (state, suspended_reason) IS DISTINCT FROM ('suspended', 'one_time')
    """,
    "a run is still open": """
        SELECT run_id, state, attempt, lease_until FROM exporter.runs WHERE state IN ('queued', 'running')
    """,
    "a run did not end exactly once": f"""
        SELECT r.run_id, count(o.id) FROM exporter.runs r
        LEFT JOIN exporter.outbox o ON o.type IN ({TERMINAL_TYPES}) AND o.key::uuid = r.run_id
        GROUP BY r.run_id HAVING count(o.id) <> 1
    """,
    "something happened to a run after its end": f"""
        SELECT o.key, o.type FROM exporter.outbox o
        JOIN exporter.outbox e ON e.key = o.key AND e.type IN ({TERMINAL_TYPES}) AND e.id < o.id
        WHERE o.type NOT IN ('cdds.ArtifactDownloaded.v1', 'cdds.ArtifactDeleted.v1')
    """,
    "a version of a run is missing, repeated or out of order": """
        SELECT run_id, array_agg(version ORDER BY id) FROM (
          SELECT id, key AS run_id, (value::json->>'version')::int AS version,
                 row_number() OVER (PARTITION BY key ORDER BY id) AS expected
          FROM exporter.outbox
          WHERE type NOT IN ('cdds.ArtifactStored.v1', 'cdds.ArtifactDownloaded.v1', 'cdds.ArtifactDeleted.v1')
        ) told GROUP BY run_id HAVING bool_or(version <> expected)
    """,
    "an attempt was heard of after its successor": """
        SELECT key, type FROM (
          SELECT key, type, (value::json->>'attempt')::int AS attempt,
                 max((value::json->>'attempt')::int) OVER (PARTITION BY key ORDER BY id) AS newest
          FROM exporter.outbox WHERE value::json->>'attempt' IS NOT NULL
        ) told WHERE attempt < newest
    """,
    "a job's version regressed in the outbox": """
        SELECT key FROM (
          SELECT key, (value::json->'job'->>'version')::int AS version,
                 row_number() OVER (PARTITION BY key ORDER BY id) AS expected
          FROM job_api.outbox WHERE value::json->'job' IS NOT NULL
        ) told WHERE version <> expected
    """,
    "files and success do not belong together": """
        SELECT r.run_id, r.state, count(DISTINCT a.artifact_id), count(DISTINCT d.document_id),
               max((e.value::json->>'parts')::int)
        FROM exporter.runs r
        LEFT JOIN exporter.artifacts a USING (run_id)
        LEFT JOIN exporter.documents d USING (run_id)
        LEFT JOIN exporter.outbox e ON e.key = r.run_id::text AND e.type = 'cdds.RunSucceeded.v1'
        GROUP BY r.run_id, r.state
        HAVING CASE r.state
          WHEN 'succeeded' THEN
            (count(DISTINCT d.document_id), count(DISTINCT a.artifact_id)) <> (2, max((e.value::json->>'parts')::int))
          ELSE count(d.document_id) + count(a.artifact_id) > 0
        END
    """,
    "a file comes from another attempt than the one that won": """
        SELECT a.object_key, r.attempt FROM exporter.artifacts a JOIN exporter.runs r USING (run_id)
        WHERE a.object_key NOT LIKE r.run_id || '/' || r.attempt || '/%'
    """,
    "job_api shows another state of a run than the exporter": """
        SELECT run_id, mine.state, mine.version, theirs.state, theirs.version
        FROM exporter.runs mine
        FULL JOIN (SELECT * FROM job_api.runs WHERE state <> 'skipped') theirs USING (run_id)
        WHERE (mine.state, mine.version, mine.job_id, mine.tenant)
          IS DISTINCT FROM (theirs.state, theirs.version, theirs.job_id, theirs.tenant)
    """,
    "history shows another state of a run than the exporter": """
        SELECT run_id, mine.state, mine.version, mine.attempt, theirs.state, theirs.version, theirs.attempt
        FROM exporter.runs mine FULL JOIN history.executions theirs USING (run_id)
        WHERE (mine.state, mine.version, mine.attempt, mine.job_id, mine.tenant)
          IS DISTINCT FROM (theirs.state, theirs.version, theirs.attempt, theirs.job_id, theirs.tenant)
    """,
    "history shows other files than the exporter": """
        SELECT artifact_id FROM exporter.artifacts mine FULL JOIN history.artifacts theirs USING (artifact_id)
        WHERE (mine.run_id, mine.tenant, mine.number, mine.file_name, mine.size_bytes, mine.rows, mine.sha256,
               mine.expires_at)
          IS DISTINCT FROM (theirs.run_id, theirs.tenant, theirs.number, theirs.file_name, theirs.size_bytes,
               theirs.rows, theirs.sha256, theirs.expires_at)
    """,
    "history's timeline is not the sum of the outboxes": """
        SELECT event_id, sent.type, known.type
        FROM (SELECT event_id, type FROM job_api.outbox UNION ALL SELECT event_id, type FROM scheduler.outbox
              UNION ALL SELECT event_id, type FROM exporter.outbox) sent
        FULL JOIN history.events known USING (event_id)
        WHERE split_part(sent.type, '.', 2) IS DISTINCT FROM known.type
    """,
    "history counts other runs than it shows": """
        SELECT day, tenant, source, type
        FROM (SELECT (finished_at AT TIME ZONE 'UTC')::date AS day, tenant, source, type, count(*) AS runs,
                     coalesce(sum(rows), 0) AS rows
              FROM history.executions WHERE finished_at IS NOT NULL GROUP BY 1, 2, 3, 4) shown
        FULL JOIN (SELECT day, tenant, source, type, succeeded + failed + cancelled AS runs, rows
                   FROM history.statistics) counted USING (day, tenant, source, type)
        WHERE (shown.runs, shown.rows) IS DISTINCT FROM (counted.runs, counted.rows)
    """,
    "history shows progress of a run that has ended": """
        SELECT run_id FROM history.progress JOIN history.executions USING (run_id)
        WHERE finished_at IS NOT NULL AND progress.occurred_at < now() - interval '1 hour'
    """,
    "an event of history has no place in its order": """
        SELECT min(event_id::text) FROM history.events GROUP BY position
        HAVING count(*) > 1 OR position IS NULL
    """,
    "an event id was used twice": """
        SELECT event_id FROM (SELECT event_id FROM job_api.outbox UNION ALL SELECT event_id FROM scheduler.outbox
              UNION ALL SELECT event_id FROM exporter.outbox) sent GROUP BY event_id HAVING count(*) > 1
    """,
    "an event is not published": """
        SELECT event_id FROM job_api.outbox WHERE published_at IS NULL
        UNION ALL SELECT event_id FROM scheduler.outbox WHERE published_at IS NULL
        UNION ALL SELECT event_id FROM exporter.outbox WHERE published_at IS NULL
    """,
}


async def assert_invariants(stack: Stack, *, dead: int = 0, within: timedelta = SETTLED_WITHIN) -> None:
    """The stack comes to rest with every invariant true and exactly `dead` records dead-lettered."""
    seen: list[str] = []

    async def look() -> bool:
        seen[:] = await violations(stack)
        return not seen

    try:
        await eventually(look, within=within)
    except AssertionError:
        raise AssertionError("\n".join(seen)) from None
    buried = await dead_letters(stack)
    assert len(buried) == dead, [dict(record.headers) for record in buried]


async def assert_same_as_source(export: Export, dsn: str, query: str) -> None:
    """The files hold exactly the rows that `query` finds in a source that has not changed since, byte for byte."""
    connection = await asyncpg.connect(dsn, server_settings={"timezone": "UTC"})
    try:
        found = await connection.fetch(f"SELECT row_to_json(q)::text FROM ({query}) q")
    finally:
        await connection.close()
    expected = sorted(row[0].encode() + b"\n" for row in found)
    assert export.manifest["rows"] == len(export.lines) == len(expected)
    assert sha256(b"".join(sorted(export.lines))).digest() == sha256(b"".join(expected)).digest()


async def dead_letters(stack: Stack) -> list[ConsumerRecord]:
    """All records on dead-letter topics."""
    topics = [topic.dead for topic in TOPICS]
    async with AIOKafkaConsumer(*topics, bootstrap_servers=stack.kafka, auto_offset_reset="earliest") as consumer:
        ends = await consumer.end_offsets(consumer.assignment())
        found: list[ConsumerRecord] = []
        while any([await consumer.position(partition) < end for partition, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=100)).values():
                found += records
        return found


async def violations(stack: Stack) -> list[str]:
    """What is not true now, in words and with some rows."""
    connection = await asyncpg.connect(stack.dsn())
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            found = [
                f"{sentence}: {[dict(row) for row in rows[:3]]}"
                for sentence, query in QUERIES.items()
                if (rows := await connection.fetch(query))
            ]
            keys = {
                row["object_key"]
                for row in await connection.fetch("SELECT object_key FROM exporter.artifacts WHERE state <> 'deleted'")
            }
            manifests = await connection.fetch(
                "SELECT body, sha256, run_id FROM exporter.documents WHERE kind = 'manifest'"
            )
            heads = dict(await connection.fetch("SELECT job_id::text, manifest_sha256 FROM exporter.chain_heads"))
    finally:
        await connection.close()
    if stored := _objects(stack.data / "objects") ^ keys:
        found.append(f"an object without a file, or a file without its object: {sorted(stored)[:3]}")
    return found + _broken_chains([orjson.loads(row["body"]) | {"sha256": row["sha256"]} for row in manifests], heads)


def _objects(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _broken_chains(manifests: list[dict[str, Any]], heads: dict[str, str | None]) -> list[str]:
    """Jobs whose manifests do not name one another from the first to the last."""
    found: list[str] = []
    for job, head in heads.items():
        following = {m["previous_manifest_sha256"]: m["sha256"] for m in manifests if m["job"] == job}
        last: str | None = None
        while last in following:
            last = following.pop(last)
        if following or last != head:
            found.append(f"the chain of manifests of job {job} is broken")
    return found
