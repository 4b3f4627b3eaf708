"""A whole export where every service is a user of its own, on TLS, and may do what the table of rights says only."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from cli.acls import permissions, permit
from deploy.local import data
from deploy.local.stack import SOURCES_DATABASE, Options, Stack
from shared.events import JOBS
from shared.rights import CONSUMES
from tests.cli.operate.commands import Ended, cdds
from tests.kafka.conftest import PASSWORDS, Secured
from tests.system.driver import Tenant, eventually, tenant
from tests.system.stacks import QUICK

pytestmark = pytest.mark.apache

ROWS = 400


def named(prefix: str, settings: dict[str, str]) -> dict[str, str]:
    return {f"CDDS_{prefix}{name.upper()}": value for name, value in settings.items()}


@pytest.fixture(scope="module")
async def stack(secured: Secured) -> AsyncIterator[Stack]:
    """As `deploy/kafka/acls.sh` and `cdds topics ensure` make it ready."""
    await permit(secured.by_anybody, list(permissions({})))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in named("", secured.as_user("administrator")).items():
            patch.setenv(name, value)

        async def ensured() -> Ended | None:
            # Kafka answers before it goes by what was permitted.
            ended = await cdds("topics", "ensure", "--partitions", "2")
            return ended if ended.code == 0 else None

        made = await eventually(ensured, what="the topics")
        assert "topics were as they shall be" in made.output
    environment = dict(QUICK)
    for name in CONSUMES:
        settings = secured.as_user(name, kafka_topics="expect", kafka_partitions=2)
        environment |= named(f"{name.upper()}_", {one: settings[one] for one in settings if one != "kafka"})
    with TemporaryDirectory(prefix="cdds-test-", ignore_cleanup_errors=True) as folder:
        address = secured.settings("SASL_SSL")["kafka"]
        options = Options(data=Path(folder) / "data", kafka=address, environment=environment)
        # Not to standard output, which a command's own is taken from meanwhile.
        async with Stack(options, output=Path(folder) / "services.log") as stack:
            await data.create_schema(stack.dsn(SOURCES_DATABASE))
            await data.load_interactions(stack.dsn(SOURCES_DATABASE), "ucs", rows=ROWS)
            yield stack


@pytest.fixture(scope="module")
async def acme(stack: Stack) -> AsyncIterator[Tenant]:
    async with tenant(stack, "acme") as acme:
        yield acme


@pytest.fixture
def operator(secured: Secured, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of this test come as the operator; the services' passwords are in the environment, as it has to be."""
    settings = secured.as_user("operator")
    for name, value in named("", settings).items():
        monkeypatch.setenv(name, value)
    for name in CONSUMES:
        monkeypatch.setenv(f"CDDS_{name.upper()}_KAFKA_PASSWORD", PASSWORDS[name])


async def test_a_job_becomes_an_artifact_and_history_tells_of_it(stack: Stack, acme: Tenant) -> None:
    execution = await acme.succeeded(await acme.submit())
    export = await acme.download(execution)
    assert len(export.lines) + len(export.attachments) == execution["rows"] > 0
    told = (stack.data / "stack.json").read_text()
    assert not [password for password in PASSWORDS.values() if password in told]


@pytest.mark.usefixtures("operator")
async def test_the_doctor_finds_nothing_wrong(stack: Stack) -> None:
    ended = await cdds("doctor", "--data", stack.data, "--output", "json")
    found = [one for one in json.loads(ended.output)["findings"] if one["check"] == "kafka"]
    assert {one["about"] for one in found if one["status"] == "ok"} >= {
        "broker", "version", "permissions", "topics", "consumers",
    }, found  # fmt: skip
    assert not [one for one in found if one["status"] == "failed"], found
    assert not [password for password in PASSWORDS.values() if password in ended.output]


@pytest.mark.usefixtures("operator")
async def test_dead_letters_are_put_aside_listed_and_replayed(secured: Secured, stack: Stack) -> None:
    async with AIOKafkaProducer(**secured.by_anybody.client()) as producer:
        await producer.send_and_wait(JOBS.name, b"{}", headers=[("ce_type", b"cdds.Nonsense.v1")])

    async def listed() -> list[dict[str, Any]]:
        ended = await cdds("dead-letters", "list", "--output", "json", "--data", stack.data)
        assert ended.code == 0, ended.error
        return json.loads(ended.output)["items"]

    async def both() -> bool:
        return {one["handler"] for one in await listed()} == {"scheduler", "history"}

    await eventually(both, what="a dead letter of each consumer")
    replayed = await cdds("dead-letters", "replay", "--all", "--yes", "--data", stack.data)
    assert replayed.code == 0, replayed.error


async def test_history_is_rebuilt(stack: Stack) -> None:
    ended = await cdds("history", "rebuild", "--check", "--data", stack.data)
    assert ended.code == 0, ended.output + ended.error


@pytest.mark.slow
async def test_a_user_is_replaced_while_the_old_one_works(secured: Secured, stack: Stack, acme: Tenant) -> None:
    """The rotation of docs/operate/kafka.md: permit the new user, restart one replica after the other."""
    await permit(
        secured.by_anybody, [p for p in permissions({"scheduler": "User:scheduler2"}) if p.name == "scheduler"]
    )
    new = {"kafka_username": "scheduler2", "kafka_password": PASSWORDS["scheduler2"]}
    async with stack.replica("scheduler"):
        await stack.restart("scheduler", named("SCHEDULER_", new))
        await acme.succeeded(await acme.submit())
    await acme.succeeded(await acme.submit())


async def doctor(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]) -> tuple[Ended, list[dict[str, Any]]]:
    for name, value in named("", settings).items():
        monkeypatch.setenv(name, value)
    ended = await cdds("doctor", "--output", "json")
    assert ended.output, ended.error
    return ended, [one for one in json.loads(ended.output)["findings"] if one["check"] == "kafka"]


@pytest.mark.parametrize(
    ("case", "message", "remedy"),
    [
        ("another CA", "signed by nobody who is believed", "KAFKA_CA"),
        ("expired", "has expired", "renew it"),
        ("other name", "is not for the name 127.0.0.1", "subjectAltNames"),
        ("password", "does not take user name and password of 'operator'", "KAFKA_PASSWORD"),
        ("setting", "KAFKA_SECURITY is sasl_ssl: set KAFKA_PASSWORD, too", "correct it"),
    ],
)
async def test_the_doctor_says_why_nobody_is_let_in(
    secured: Secured, monkeypatch: pytest.MonkeyPatch, case: str, message: str, remedy: str
) -> None:
    settings = {
        "another CA": secured.as_user("operator", kafka_ca=secured.other.path),
        "expired": secured.settings("EXPIRED"),
        "other name": secured.settings("ELSEWHERE"),
        "password": secured.as_user("operator") | {"kafka_password": "guessed"},
        "setting": secured.settings("SASL_SSL", kafka_username="operator"),
    }[case]
    ended, [found] = await doctor(monkeypatch, settings)
    assert ended.code in (1, 4)
    assert (found["about"], found["status"]) == ("broker", "failed")
    assert message in found["message"]
    assert remedy in found["remedy"]
    assert "guessed" not in ended.output


@pytest.mark.usefixtures("stack")
async def test_the_doctor_says_what_it_is_not_permitted_to_look_at(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, found = await doctor(monkeypatch, secured.as_user("nobody"))
    [said] = [one for one in found if one["about"] == "permissions"]
    assert "User:nobody Write and Describe and DescribeConfigs on topics exporter.runs.v1" in said["message"]
    assert "Describe on groups exporter, history" in said["message"]
    assert "cdds topics acls" in said["remedy"]
    assert not [one for one in found if "missing" in one["message"] or "never" in one["message"]], found
    ended = await cdds("topics", "ensure")
    assert ended.code == 1
    assert "Kafka does not permit User:nobody to do it" in ended.error
    assert "CDDS_KAFKA_USERNAME" in ended.error
