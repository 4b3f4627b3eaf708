"""Outbox and inbox as their metrics show them."""

from datetime import timedelta
from typing import cast

from shared import outbox
from shared.cluster import Cluster
from shared.database import Database, database_now
from shared.events import CertificateRemoved
from shared.inbox import Inbox
from shared.messaging import Producer
from shared.observability import CONSUMER_LAG
from tests.conftest import DatabaseOf
from tests.shared.metrics import measured


async def write(database: Database, number: int, age: timedelta) -> None:
    async with database.transaction() as connection:
        at = await database_now(connection) - age
        event = CertificateRemoved(occurred_at=at, tenant="acme", fingerprint=str(number), actor="test")
        await outbox.append(connection, [event])


async def test_the_outbox_is_as_old_as_its_oldest_unsent_event(database_of: DatabaseOf) -> None:
    database = await database_of("job_api")
    await outbox.measure(database)
    assert (measured("cdds_outbox_unsent"), measured("cdds_outbox_age_seconds")) == (0, 0)

    for number, hours in enumerate((3, 2, 1)):
        await write(database, number, timedelta(hours=hours))
    await outbox.measure(database)
    assert measured("cdds_outbox_unsent") == 3
    assert 3 * 3600 <= measured("cdds_outbox_age_seconds") < 4 * 3600

    async with database.transaction() as connection:
        await connection.execute("UPDATE outbox SET published_at = now() WHERE id = (SELECT min(id) FROM outbox)")
    await outbox.measure(database)
    assert measured("cdds_outbox_unsent") == 2
    assert 2 * 3600 <= measured("cdds_outbox_age_seconds") < 3 * 3600


async def test_an_event_by_a_clock_that_is_ahead_is_not_younger_than_nothing(database_of: DatabaseOf) -> None:
    database = await database_of("job_api")
    await write(database, 1, -timedelta(hours=1))
    await outbox.measure(database)
    assert (measured("cdds_outbox_unsent"), measured("cdds_outbox_age_seconds")) == (1, 0)


async def test_a_replica_that_has_lost_its_partitions_is_not_behind() -> None:
    inbox = Inbox("test", cast(Producer, None), timedelta(seconds=20))

    @inbox.on(CertificateRemoved)
    async def ignore(event: CertificateRemoved) -> None: ...

    [topic] = inbox.topics
    CONSUMER_LAG.labels(topic).set(7)
    await inbox._measure(inbox.broker(Cluster("127.0.0.1:1")))
    assert measured("cdds_consumer_lag", topic=topic) == 0
