"""`cdds doctor` beside a stack that things are done to, and away from any."""

import asyncio
import doctest
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import OffsetAndMetadata

from cli.broker import administrator
from cli.dead_letters import inert
from cli.doctor import broker, checking
from cli.doctor.checking import redacted, secrets_of
from cli.doctor.findings import Status
from cli.doctor.postgres import skew
from deploy.local.processes import free_port
from deploy.local.stack import SERVICES, SOURCES_DATABASE, Stack
from shared.cluster import Cluster
from shared.events import CERTIFICATES, JOBS
from tests.cli.operate.commands import Ended, cdds
from tests.shared.settings import good
from tests.system.driver import Tenant, eventually, execute

Finding = dict[str, Any]
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
PASSWORD = "correct-horse-battery"


async def test_a_stack_that_works_is_fine(stack: Stack, acme: Tenant) -> None:
    ended = await doctor(stack)
    assert ended.code == 0, failures(ended)
    found = ended.json()["findings"]
    assert {finding["check"] for finding in found} >= {
        "configuration", "postgresql", "kafka", "services", "clocks", "sources", "object store",
        "outbox", "runs", "schedules", "certificates", "history",
    }  # fmt: skip
    assert {one["about"] for one in found if one["check"] == "services"} == set(SERVICES)
    assert all(one["remedy"] for one in found if one["status"] != "ok")
    keys = [stack.secrets.masking_key.read_text(), stack.secrets.session_key.read_text()]
    assert not [key for key in keys if key in ended.output]
    told = stack.data / "stack.json"
    assert told.stat().st_mode & 0o077 == 0, "only its owner reads the settings"
    assert not [key for key in keys if key in told.read_text()]
    for_people = await cdds("doctor", "--data", stack.data)
    assert for_people.code == 0
    assert "0 failed." in for_people.output
    assert not list((stack.data / "objects").iterdir()), "the object that was tried is gone"


async def test_dead_letters_are_a_warning(stack: Stack) -> None:
    async with AIOKafkaProducer(bootstrap_servers=stack.kafka) as producer:
        await producer.send_and_wait(CERTIFICATES.dead, b"{}", headers=[("dead_consumer", b"tests")])
    ended = await doctor(stack)
    assert ended.code == 0, failures(ended)
    warned = one(ended, "kafka", "dead letters")
    assert warned["status"] == "warning"
    assert "tests" in warned["message"]
    assert "cdds dead-letters" in warned["remedy"]


async def test_tenants_whose_certificates_expire_are_named(stack: Stack) -> None:
    async with rows(
        stack,
        "job_api.certificates",
        """INSERT INTO job_api.certificates (tenant, fingerprint, pem, subject, not_before, not_after, added_by)
           SELECT tenant, 'doctor', '', '', now() - interval '400 days', now() + days * interval '1 day', 'tests'
           FROM (VALUES ('late', -1), ('soon', 10), ('sooner', 3), ('next-month', 20)) AS made (tenant, days)""",
        "fingerprint = 'doctor'",
    ):
        ended = await doctor(stack)
    assert ended.code == 1
    said = {one["about"]: (one["status"], one["message"]) for one in of(ended, "certificates")}
    assert said["expired"] == ("failed", "all certificates have expired of late: encrypted runs fail")
    assert said["7 days"] == ("warning", "a certificate expires within 7 days of sooner")
    assert said["14 days"] == ("warning", "a certificate expires within 14 days of soon")
    assert said["30 days"] == ("warning", "a certificate expires within 30 days of next-month")


async def test_an_altered_migration_is_named(stack: Stack) -> None:
    change = "UPDATE scheduler.applied_migrations SET sha256 = {} WHERE name = '0001_schedules.sql'"
    await execute(stack, change.format("'x' || sha256"))
    try:
        ended = await doctor(stack)
    finally:
        await execute(stack, change.format("substr(sha256, 2)"))
    assert ended.code == 1
    assert "scheduler: 0001_schedules.sql is not what was applied" in failures(ended)


async def test_roles_that_see_all_tenants_are_told(stack: Stack) -> None:
    await execute(stack, "ALTER ROLE job_api_tenant BYPASSRLS")
    try:
        ended = await doctor(stack)
    finally:
        await execute(stack, "ALTER ROLE job_api_tenant NOBYPASSRLS")
    assert ended.code == 1
    assert "row-level security does not bind job_api_tenant" in failures(ended)


async def test_a_login_that_may_not_look_is_told_which_one_may(stack: Stack) -> None:
    await execute(stack, "CREATE ROLE doctor LOGIN")
    try:
        ended = await doctor(stack, "--postgres", stack.dsn().replace("postgres@", "doctor@"))
    finally:
        await execute(stack, "DROP ROLE doctor")
    assert ended.code == 1
    refused = one(ended, "postgresql", "schema")
    assert "permission denied" in refused["message"]
    assert "the role that the services log in with" in refused["remedy"]
    assert "doctor may not act as exporter_worker" in failures(ended)


async def test_topics_that_are_missing_or_different_are_mended_by_the_remedy(stack: Stack) -> None:
    async with administrator(Cluster(stack.kafka)) as admin:
        await admin.delete_topics([CERTIFICATES.replay])
        resource = ConfigResource(ConfigResourceType.TOPIC, JOBS.replay, {"retention.ms": "1000"})
        await admin.alter_configs([resource])
    ended = await doctor(stack)
    assert ended.code == 1
    assert f"missing: {CERTIFICATES.replay}" in failures(ended)
    different = [one["message"] for one in of(ended, "kafka") if one["status"] == "warning"]
    assert f"{JOBS.replay}: retention.ms is 1000, not 86400000" in different
    assert (await cdds("topics", "ensure", "--repair", "--data", stack.data)).code == 0
    assert one(await doctor(stack), "kafka", "topics")["status"] == "ok"


async def test_a_missing_month_of_history_is_told(stack: Stack) -> None:
    month = f"{datetime.now(UTC).replace(day=1) + timedelta(days=31):%Y_%m}"
    await execute(stack, f"ALTER TABLE history.statistics_{month} RENAME TO away")
    try:
        ended = await doctor(stack)
    finally:
        await execute(stack, f"ALTER TABLE history.away RENAME TO statistics_{month}")
    assert one(ended, "history", "partitions")["message"] == "there is no place yet for next month's rows in statistics"


async def test_a_source_without_its_table_is_named(stack: Stack) -> None:
    await execute(stack, "ALTER TABLE ucs.contacts RENAME TO away", database=SOURCES_DATABASE)
    try:
        ended = await doctor(stack)
    finally:
        await execute(stack, "ALTER TABLE ucs.away RENAME TO contacts", database=SOURCES_DATABASE)
    assert ended.code == 1
    assert "contact: The source database refused the query: there is no table ucs.contacts" in failures(ended)
    assert one(ended, "sources", "contact_history")["status"] == "ok"


async def test_a_consumer_that_catches_up_while_it_is_looked_at_is_not_stuck(
    stack: Stack, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was behind by was its last record, so it never moves again."""
    ask = AIOKafkaAdminClient.list_consumer_group_offsets
    answers: Counter[str] = Counter()

    async def late(admin: AIOKafkaAdminClient, group: str) -> dict[TopicPartition, OffsetAndMetadata]:
        """As it was one record ago, the first two times."""
        committed = await ask(admin, group)
        answers[group] += 1
        if group != "history" or answers[group] > 2:
            return committed
        at = next(partition for partition, offset in committed.items() if offset.offset > 0)
        return {**committed, at: OffsetAndMetadata(committed[at].offset - 1, "")}

    monkeypatch.setattr(broker, "MOVES_WITHIN", timedelta(seconds=5))
    monkeypatch.setattr(AIOKafkaAdminClient, "list_consumer_group_offsets", late)
    [told] = [one["message"] for one in of(await doctor(stack), "kafka") if "history" in one["message"]]
    assert told.endswith("behind and gets on")


async def test_what_a_stopped_exporter_leaves_undone_is_told(
    stack: Stack, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "MOVES_WITHIN", timedelta(seconds=1))
    await stack.stop("exporter")
    try:
        await acme.submit(type="contact", title="Waits for the exporter")
        async with (
            rows(
                stack,
                "exporter.runs",
                """INSERT INTO exporter.runs
                     (run_id, job_id, tenant, request, state, lane, source, attempts_allowed, worker, lease_until)
                   SELECT gen_random_uuid(), gen_random_uuid(), 'doctor', '{}', 'running', 'scheduled', 'ucs', 3, 'x',
                          now() - interval '1 h'""",
                "tenant = 'doctor'",
            ),
            rows(
                stack,
                "exporter.outbox",
                """INSERT INTO exporter.outbox (event_id, topic, key, type, tenant, occurred_at, value)
                   SELECT gen_random_uuid(), 'exporter.runs.v1', 'k', 't', 'doctor', now() - interval '5 min', '{}'""",
                "tenant = 'doctor'",
            ),
        ):

            async def lagging() -> Ended | None:
                # Another service may be behind for a moment as well.
                ended = await doctor(stack)
                behind = [line for line in failures(ended).splitlines() if " behind" in line]
                return ended if any("exporter" in line for line in behind) else None

            ended = await eventually(lagging, what="the exporter's lag")
    finally:
        await stack.start("exporter")
    assert ended.code == 1
    said = failures(ended)
    assert "1 run under a lease that expired, the first 1 h ago" in said
    assert "1 event not on Kafka, the oldest for 5 min" in said
    assert f"{stack.url_of('exporter')} does not answer" in said


async def test_a_stopped_postgresql_is_one_failure_and_the_rest_is_checked(stack: Stack) -> None:
    await stack.stop("postgres")
    try:
        ended = await doctor(stack)
    finally:
        await stack.start("postgres")
    assert ended.code == 1
    assert one(ended, "postgresql", "server")["status"] == "failed"
    assert "no connection to 127.0.0.1" in failures(ended)
    assert "is not ready: PostgreSQL does not answer it" in failures(ended)
    assert one(ended, "kafka", "broker")["status"] == "ok"
    assert not of(ended, "outbox")


async def test_a_stopped_broker_is_one_failure_and_the_rest_is_checked(stack: Stack) -> None:
    await stack.stop("kafka")
    try:
        ended = await doctor(stack)
    finally:
        await stack.start("kafka")
    assert ended.code == 1
    assert [one["about"] for one in of(ended, "kafka")] == ["broker"]
    assert f"Kafka at {stack.kafka} can't be reached" in failures(ended)
    assert one(ended, "postgresql", "server")["status"] == "ok"


@pytest.mark.parametrize(
    ("database", "message"),
    [
        ("127.0.0.1:{port}/nowhere", 'database "nowhere" does not exist'),
        ("127.0.0.1:{port}/cdds_sources", "the schema scheduler does not exist in this database"),
        ("127.0.0.1:1/cdds", "no connection to 127.0.0.1:1/cdds"),
        ("127.0.0.1:none/cdds", "no connection to an address that can not be read: the address can't be read"),
    ],
)
async def test_a_wrong_dsn_is_told_without_its_password(stack: Stack, database: str, message: str) -> None:
    assert stack.postgres is not None
    dsn = f"postgresql://postgres:{PASSWORD}@{database.format(port=stack.postgres.port)}"
    ended = await doctor(stack, "--postgres", dsn)
    assert ended.code == 1
    assert message in failures(ended)
    assert PASSWORD not in ended.output + ended.error


async def test_wrong_settings_are_named_and_none_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, away: None
) -> None:
    key = tmp_path / "key.pem"
    key.write_text("nonsense")
    nothing = f"127.0.0.1:{free_port()}"
    settings = {
        "HTTP_PORT": "99999", "KAFKA": nothing, "POSTGRES": f"postgresql://cdds:{PASSWORD}@{nothing}/cdds",
        "AUTH_ISSUER": "cdds-local", "AUTH_PUBLIC_KEY": str(key), "OBJECTS": str(tmp_path / "objects"),
        "SIGNING_KEY": str(key), "SOURCES": str(tmp_path / "sources.toml"), "LEASSE": "PT3S",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(f"CDDS_EXPORTER_{name}", value)
    ended = await cdds("doctor", "--output", "json")
    assert "CDDS_EXPORTER_HTTP_PORT: input should be less than or equal to 65535" in failures(ended)
    monkeypatch.setenv("CDDS_EXPORTER_HTTP_PORT", str(free_port()))
    monkeypatch.setenv("CDDS_EXPORTER_OBJECT_OPTIONS", "{")
    assert "CDDS_EXPORTER_OBJECT_OPTIONS: is not JSON" in failures(await cdds("doctor", "--output", "json"))
    monkeypatch.delenv("CDDS_EXPORTER_OBJECT_OPTIONS")

    ended = await cdds("doctor", "--output", "json")
    assert ended.code == 4, "nothing answers"
    said = failures(ended)
    for part in (
        "CDDS_EXPORTER_AUTH_PUBLIC_KEY", f"CDDS_EXPORTER_SIGNING_KEY: {key} is no unencrypted private key",
        "CDDS_EXPORTER_SOURCES", "there is no such folder",
    ):  # fmt: skip
        assert part in said
    assert "CDDS_EXPORTER_LEASSE: is no setting; CDDS_EXPORTER_LEASE may be meant" in said
    assert PASSWORD not in ended.output + ended.error


async def test_risks_are_failures_until_the_settings_take_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, away: None
) -> None:
    nothing = f"127.0.0.1:{free_port()}"
    given = {"auth_issuer": "cdds-local", "kafka": nothing, "postgres": f"postgresql://x:{PASSWORD}@{nothing}/x"}
    for name, value in (good("exporter", tmp_path, **given) | {"CDDS_EXPORTER_COLOUR": "x"}).items():
        monkeypatch.setenv(name, value)
    ended = await cdds("doctor", "--output", "json")
    assert "CDDS_EXPORTER_AUTH_ISSUER is cdds-local" in failures(ended)
    warned = {one["message"] for one in of(ended, "configuration") if one["status"] == "warning"}
    assert "CDDS_EXPORTER_COLOUR is no setting of exporter and does nothing" in warned
    monkeypatch.setenv("CDDS_EXPORTER_INSECURE", "issuer")
    ended = await cdds("doctor", "--output", "json")
    assert not [one for one in of(ended, "configuration") if one["status"] == "failed"]
    warned = {one["message"] for one in of(ended, "configuration") if one["status"] == "warning"}
    assert any(message.endswith(", which CDDS_EXPORTER_INSECURE allows") for message in warned)


async def test_servers_that_never_answer_hold_nothing_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stack: Stack, away: None
) -> None:
    with silence() as nobody:
        sources = tmp_path / "sources.toml"
        sources.write_text(
            """[sources.silent]
            title = "Silent"
            dsn = "env:CDDS_SOURCE_SILENT"
            tenants = ["acme"]
            types.row = { title = "Row", table = "a.b", id_column = "id", time_column = "at" }
            """
        )
        dsn = f"postgresql://cdds:{PASSWORD}@{nobody}/cdds"
        settings = {
            "HTTP_PORT": nobody.rpartition(":")[2], "KAFKA": nobody, "POSTGRES": dsn, "AUTH_ISSUER": "x",
            "AUTH_PUBLIC_KEY": str(stack.secrets.token_public_key), "SIGNING_KEY": str(stack.secrets.signing_key),
            "SOURCES": str(sources), "OBJECTS": "s3://bucket",
            "OBJECT_OPTIONS": json.dumps(
                {"endpoint": f"http://{nobody}", "access_key_id": "x", "secret_access_key": PASSWORD}
            ),
        }  # fmt: skip
        for name, value in settings.items():
            monkeypatch.setenv(f"CDDS_EXPORTER_{name}", value)
        monkeypatch.setenv("CDDS_SOURCE_SILENT", dsn)
        async with asyncio.timeout(60):
            ended = await cdds("doctor", "--output", "json")
    assert ended.code == 4
    failed = {(one["check"], one["about"]) for one in ended.json()["findings"] if one["status"] == "failed"}
    assert failed == {
        ("postgresql", "server"), ("kafka", "broker"), ("services", "exporter"), ("sources", "silent"),
        ("object store", "s3://bucket"),
    }  # fmt: skip
    assert PASSWORD not in ended.output + ended.error


async def test_without_any_installation_it_says_what_to_give(tmp_path: Path, away: None) -> None:
    ended = await cdds("doctor")
    assert ended.code == 4
    assert "give --postgres, --kafka, --service" in ended.error
    assert (await cdds("doctor", "--service", "nobody=http://x")).code == 1


@pytest.mark.parametrize(
    ("shown", "status", "message"),
    [
        (NOW + timedelta(seconds=0.5), Status.OK, "shows the same time"),
        (NOW - timedelta(seconds=0.9), Status.OK, "shows the same time"),
        (NOW - timedelta(seconds=1.5), Status.WARNING, "its clock is 1.5 s behind this machine's"),
        (NOW + timedelta(seconds=5), Status.WARNING, "its clock is 4.0 s ahead of this machine's"),
        (NOW + timedelta(hours=1), Status.FAILED, "ahead of"),
    ],
)
def test_clocks_are_compared_as_well_as_the_way_lets_one_know(shown: datetime, status: Status, message: str) -> None:
    # Asked at noon, answered a second later.
    found = skew("PostgreSQL", shown, shown, NOW, timedelta(seconds=1))
    assert (found.status, message in found.message) == (status, True)


def test_secrets_are_cut_out_of_whatever_quotes_them() -> None:
    environment = {
        "CDDS_JOB_API_POSTGRES": "postgresql://cdds:p%40ss-word@db/cdds",
        "CDDS_SOURCE_UCS": "host=db password=other-word dbname=x",
        "CDDS_EXPORTER_OBJECT_OPTIONS": '{"secret_access_key": "abcdefgh", "endpoint": "https://s3.example"}',
        "CDDS_EXPORTER_MASKING_KEY": "m" * 32,
        "CDDS_EXPORTER_SIGNING_KEY": "/keys/signing.pem",
        "HOME": "/root",
    }
    text = " ".join(["p@ss-word", "p%40ss-word", "other-word", "abcdefgh", "m" * 32, "/keys/signing.pem", "s3.example"])
    assert redacted(text, secrets_of(environment)) == "… … … … … /keys/signing.pem s3.example"


def test_the_examples_in_its_docstrings_hold() -> None:
    results = [doctest.testmod(module) for module in (checking, inert)]
    assert [result.failed for result in results] == [0, 0]
    assert all(result.attempted for result in results)


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder on which no stack runs."""
    monkeypatch.chdir(tmp_path)


async def doctor(stack: Stack, *arguments: str) -> Ended:
    return await cdds("doctor", "--data", stack.data, "--output", "json", *arguments)


def of(ended: Ended, check: str) -> list[Finding]:
    return [finding for finding in ended.json()["findings"] if finding["check"] == check]


def one(ended: Ended, check: str, about: str) -> Finding:
    [found] = [finding for finding in of(ended, check) if finding["about"] == about]
    return found


def failures(ended: Ended) -> str:
    """The messages of what has failed."""
    return "\n".join(one["message"] for one in ended.json()["findings"] if one["status"] == "failed")


@asynccontextmanager
async def rows(stack: Stack, table: str, insert: str, condition: str) -> AsyncIterator[None]:
    """Rows that are there as long as this lasts."""
    await execute(stack, insert)
    try:
        yield
    finally:
        await execute(stack, f"DELETE FROM {table} WHERE {condition}")


@contextmanager
def silence() -> Iterator[str]:
    """The address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", free_port()), backlog=100) as server:
        yield "{}:{}".format(*server.getsockname())
