"""A service that Kafka does not let in, or does not permit all it has to do, ends with a sentence."""

import asyncio
import json
import os
import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import DeleteAclsRequest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cli.acls import Permission, permissions, permit
from deploy.local.processes import free_port
from shared import access
from shared.brokers import answer_of, connection_to_any
from shared.cluster import Refused
from shared.config import ServiceSettings
from shared.messaging import ensure_topics
from shared.rights import RIGHTS, Operation
from shared.service import backbone
from tests.kafka.conftest import PASSWORDS, Secured
from tests.system.driver import eventually

pytestmark = pytest.mark.apache

SERVICE = "scheduler"
SOURCES = Path(__file__).parents[2] / "deploy" / "local" / "sources.toml"
WHO = "nobody"


def of_service(without: tuple[str, Operation] | None = None) -> list[Permission]:
    """What the service needs, for the user `nobody`, but for one operation on one resource."""
    needed = [one for one in permissions({SERVICE: f"User:{WHO}"}) if one.name == SERVICE]
    return [
        Permission(one.name, one.principal, one.kind, one.resource, operations)
        for one in needed
        if (operations := tuple(op for op in one.operations if (one.resource, op) != without))
    ]


async def permitted(to: Secured, without: tuple[str, Operation] | None = None, missing: tuple[str, ...] = ()) -> None:
    """Let `nobody` do all but one, and wait until the broker goes by it."""
    await permit(to.by_anybody, of_service(without))
    cluster, lacking = to.cluster(**to.as_user(WHO)), {without} - {None}

    async def known() -> bool:
        found = await access.look(cluster, RIGHTS[SERVICE])
        resources = {**found.lacking.topics, **found.lacking.groups}
        return found.missing == missing and {(n, op) for n, ops in resources.items() for op in ops} == lacking

    await eventually(known, what="what was permitted")


async def forbid_all(to: Secured) -> None:
    """Take away what `nobody` was permitted."""
    anything, any_pattern = 1, 1
    async with connection_to_any(to.by_anybody) as connection:
        request = DeleteAclsRequest(anything, None, any_pattern, f"User:{WHO}", None, anything, anything)  # pyright: ignore[reportArgumentType] - None means any
        answer: Any = await answer_of(connection, request)
    assert not any(code for code, *_ in answer.filter_responses)


async def started(settings: dict[str, str], tmp_path: Path) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, log and whole output of a service that does not get as far as its database."""
    key = tmp_path / "key.pem"
    public = Ed25519PrivateKey.generate().public_key()
    key.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    named = {
        "http_port": str(free_port()), "postgres": "postgresql://nobody@127.0.0.1:1/nothing", "auth_issuer": "test",
        "auth_public_key": str(key), "sources": str(SOURCES), **settings,
    }  # fmt: skip
    prefix = f"CDDS_{SERVICE.upper()}_"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"services.{SERVICE}",
        env={**os.environ, **{prefix + name.upper(): value for name, value in named.items()}},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    text = output.decode()
    assert process.returncode is not None
    return process.returncode, [json.loads(line) for line in text.splitlines() if line.startswith("{")], text


def told(log: Iterable[dict[str, Any]]) -> dict[str, Any]:
    [last] = [line for line in log if line["event"] == "service failed"]
    return last


async def test_whom_the_broker_does_not_prove_itself_to_says_why_and_ends(secured: Secured, tmp_path: Path) -> None:
    code, log, text = await started(secured.as_user(WHO, kafka_ca=secured.other.path), tmp_path)
    assert code == 1
    assert "signed by nobody who is believed here" in told(log)["reason"]
    assert "KAFKA_CA" in told(log)["remedy"]
    assert "Traceback" not in text


async def test_who_may_nothing_says_what_is_missing_and_ends(secured: Secured, tmp_path: Path) -> None:
    code, log, text = await started(secured.as_user(WHO), tmp_path)
    assert code == 1
    assert "User:nobody Read on topics exporter.runs.v1, job_api.jobs.v1; Write on topics" in told(log)["reason"]
    assert "cdds topics acls" in told(log)["remedy"]
    assert "Traceback" not in text
    assert PASSWORDS[WHO] not in text


@pytest.mark.parametrize(
    ("resource", "operation", "sentence"),
    [
        ("scheduler.runs.v1", Operation.WRITE, "Write on topics scheduler.runs.v1"),
        ("job_api.jobs.v1", Operation.READ, "Read on topics job_api.jobs.v1"),
        ("exporter.runs.v1.dead", Operation.WRITE, "Write on topics exporter.runs.v1.dead"),
        ("scheduler", Operation.READ, "Read on groups scheduler"),
    ],
)
async def test_one_permission_that_is_missing_is_named(
    secured: Secured, resource: str, operation: Operation, sentence: str
) -> None:
    await ensure_topics(secured.by_anybody, 2, 1)
    await permitted(secured, without=(resource, operation))
    try:
        message = await refused(secured, kafka_topics="expect")
    finally:
        await forbid_all(secured)
    assert f"Kafka does not permit User:nobody {sentence}: " in message


async def test_topics_are_made_only_by_who_may(secured: Secured) -> None:
    admin = AIOKafkaAdminClient(**secured.by_anybody.client())
    await admin.start()
    try:
        await ensure_topics(secured.by_anybody, 2, 1)
        await admin.delete_topics(["scheduler.runs.v1"])
    finally:
        await admin.close()
    await permitted(secured, missing=("scheduler.runs.v1",))
    try:
        expecting = await refused(secured, kafka_topics="expect")
        making = await refused(secured, kafka_topics="ensure")
    finally:
        await forbid_all(secured)
        await ensure_topics(secured.by_anybody, 2, 1)
    assert expecting == "Kafka has no topics scheduler.runs.v1: `cdds topics ensure` makes them"
    assert "does not permit User:nobody to make topics" in making
    assert "set KAFKA_TOPICS to expect" in making


async def refused(to: Secured, **settings: str) -> str:
    """What the service says when it is told to start."""
    read = ServiceSettings.model_validate(
        {
            "http_port": 1, "postgres": "postgresql://nobody@127.0.0.1:1/nothing", "auth_issuer": "test",
            "auth_public_key": "unused", **to.as_user(WHO), **settings,
        }
    )  # fmt: skip
    with pytest.raises(Refused) as raised:
        async with backbone(SERVICE, read):
            pass
    return str(raised.value)


async def test_what_is_taken_away_later_is_noticed(secured: Secured) -> None:
    await ensure_topics(secured.by_anybody, 2, 1)
    cluster, rights = secured.cluster(**secured.as_user(WHO)), RIGHTS[SERVICE]
    await permitted(secured)
    watching = asyncio.create_task(access.keep_looking(cluster, rights, timedelta(milliseconds=50)))
    await forbid_all(secured)
    with pytest.raises(Refused, match="does not permit User:nobody"):
        await asyncio.wait_for(watching, 20)
