"""`cdds topics ensure` on a broker of its own."""

from collections.abc import AsyncIterator

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from cli.broker import administrator
from deploy.local.kafka import EmbeddedKafka
from deploy.local.processes import free_port
from shared.cluster import Cluster
from shared.events import JOBS, TOPICS
from tests.brokers import apache_kafka
from tests.cli.operate.commands import cdds
from tests.system.driver import eventually
from tests.system.stacks import empty_broker

WEEK = 7 * 24 * 60 * 60 * 1000


@pytest.fixture(scope="module", params=["embedded", pytest.param("apache", marks=pytest.mark.apache)])
async def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    folder = tmp_path_factory.mktemp("kafka")
    if request.param == "apache":
        async with apache_kafka(folder / "data") as address:
            yield address
    else:
        async with EmbeddedKafka(folder / "data") as embedded:
            yield embedded.bootstrap


@pytest.fixture
async def admin(broker: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """Of a broker without topics."""
    await empty_broker(broker)
    async with administrator(Cluster(broker)) as admin:

        async def look() -> bool:
            return not await names(admin)

        await eventually(look, what="a broker without topics")
        yield admin


async def test_all_topics_are_made_with_their_settings(broker: str, admin: AIOKafkaAdminClient) -> None:
    tried = await cdds("topics", "ensure", "--kafka", broker, "--dry-run", "--partitions", "2")
    assert tried.code == 0, tried
    assert await names(admin) == set()
    assert "job_api.jobs.v1.dead: would be created, 2 partitions" in tried.output

    made = await cdds("topics", "ensure", "--kafka", broker, "--partitions", "2")
    assert made.code == 0, made
    await all_there(admin)
    for topic in TOPICS:
        assert await settings(admin, topic.dead) == ("delete", str(WEEK), 2)
        assert await settings(admin, topic.replay) == ("delete", str(WEEK // 7), 2)

    again = await cdds("topics", "ensure", "--kafka", broker, "--partitions", "1", "--output", "json")
    assert again.code == 0, again
    assert again.json() == {"dry_run": False, "created": [], "mended": [], "different": []}
    assert (await settings(admin, JOBS.name))[2] == 2, "partitions are never taken away"


async def all_there(admin: AIOKafkaAdminClient) -> None:
    """Kafka answers before it shows them."""
    wanted = {name for topic in TOPICS for name in (topic.name, topic.dead, topic.replay)}

    async def look() -> bool:
        return await names(admin) == wanted

    await eventually(look, what="the topics")


async def test_what_is_different_is_said_and_mended_when_asked(broker: str, admin: AIOKafkaAdminClient) -> None:
    own = {"retention.ms": "1000", "cleanup.policy": "compact", "segment.ms": "123456"}
    await admin.create_topics([NewTopic(JOBS.name, 1, 1, topic_configs=own)])
    await become(admin, JOBS.name, ("compact", "1000", 1))

    found = await cdds("topics", "ensure", "--kafka", broker, "--partitions", "2", "--output", "json")
    assert found.code == 1, found
    differing = {one["setting"]: (one["found"], one["wanted"]) for one in found.json()["different"]}
    assert differing.pop("max.message.bytes")[1] == str(8 * 1024 * 1024)
    assert differing == {
        "partitions": ("1", "2"),
        "retention.ms": ("1000", str(WEEK)),
        "cleanup.policy": ("compact", "delete"),
    }
    assert all("--repair" in one["remedy"] for one in found.json()["different"])
    assert await settings(admin, JOBS.name) == ("compact", "1000", 1), "nothing is altered unasked"

    tried = await cdds("topics", "ensure", "--kafka", broker, "--partitions", "2", "--repair", "--dry-run")
    assert tried.code == 0, tried
    assert "cleanup.policy would be set from compact to delete" in tried.output
    assert await settings(admin, JOBS.name) == ("compact", "1000", 1)

    mended = await cdds("topics", "ensure", "--kafka", broker, "--partitions", "2", "--repair")
    assert mended.code == 0, mended
    await become(admin, JOBS.name, ("delete", str(WEEK), 2))
    assert await config(admin, JOBS.name, "segment.ms") == "123456", "what others have set stays"


async def test_replicas_are_not_ours_to_move(broker: str, admin: AIOKafkaAdminClient) -> None:
    await cdds("topics", "ensure", "--kafka", broker, "--partitions", "1")
    await all_there(admin)
    ended = await cdds("topics", "ensure", "--kafka", broker, "--replication", "3", "--repair", "--partitions", "1")
    assert ended.code == 1, ended
    assert "kafka-reassign-partitions.sh" in ended.output


async def test_a_broker_that_is_away_is_named() -> None:
    ended = await cdds("topics", "ensure", "--kafka", f"127.0.0.1:{free_port()}")
    assert ended.code == 4
    assert "Kafka at 127.0.0.1" in ended.error


async def names(admin: AIOKafkaAdminClient) -> set[str]:
    return {name for name in await admin.list_topics() if not name.startswith("__")}


async def settings(admin: AIOKafkaAdminClient, topic: str) -> tuple[str, str, int]:
    """Cleanup policy, retention, and how many partitions."""
    [described] = await admin.describe_topics([topic])
    policy = await config(admin, topic, "cleanup.policy")
    return policy, await config(admin, topic, "retention.ms"), len(described["partitions"])


async def become(admin: AIOKafkaAdminClient, topic: str, wanted: tuple[str, str, int]) -> None:
    """Kafka answers a moment before the broker acts on it."""

    async def look() -> bool:
        return await settings(admin, topic) == wanted

    await eventually(look, what=f"{topic} with {wanted}")


async def config(admin: AIOKafkaAdminClient, topic: str, name: str) -> str:
    [answer] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    [(_, _, _, _, entries)] = answer.resources
    return next((value for key, value, *_ in entries if key == name), "")
