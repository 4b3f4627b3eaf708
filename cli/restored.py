"""`cdds restored`: what has to be done between the restore of PostgreSQL to an earlier moment and the start of all.

Kafka still has events of the time that PostgreSQL has forgotten. Whoever consumed them now would know of jobs and runs
that their owners do not, or take the versions that are given again for old ones. So the topics are emptied, and filled
again from the outboxes, which say all that there is.
"""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Final

import typer
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from cli.broker import administrator, reaching
from cli.console import Failure, Output, OutputOption, confirm, out, print_json
from cli.databases import PostgresOption, acting_as_worker, dsns_of, make_due, run_in
from cli.installation import DataOption, Installation, KafkaOption, cluster_of
from deploy.local.stack import PUBLISHERS
from shared.cluster import Cluster
from shared.messaging import topic_settings

POSITIONS: Final = 10_000_000
"""More events than history has ever projected in the time between a backup and the loss."""
_TO_THE_END: Final = -1


def restored(
    kafka: KafkaOption = None,
    postgres: PostgresOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data: DataOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let Kafka forget what PostgreSQL has, after it was restored to an earlier moment and before services start.

    All topics are emptied and every kept event is due again; readers of history's stream go on behind what they saw.
    It may be repeated until services run.
    """
    installation = Installation.find(data, postgres, kafka)
    dsns, cluster = dsns_of(installation), cluster_of(installation)
    if missing := [name for name in (*PUBLISHERS, "history") if name not in dsns]:
        raise Failure(f"CDDS_{missing[0].upper()}_POSTGRES is not set: all services have to forget the same")
    confirm("Every record on the project's topics is deleted, and published again from the outboxes.", yes=yes)
    for owner in PUBLISHERS:
        run_in(dsns[owner], _refuse_running(dsns, owner))
    emptied = asyncio.run(reaching(cluster, _empty(cluster)))
    run_in(dsns["history"], _pass_positions(dsns["history"]))
    due = sum(run_in(dsns[owner], make_due(dsns[owner], owner)) for owner in PUBLISHERS)
    if output == Output.JSON:
        print_json({"deleted_records": emptied, "events_due": due})
        return
    out.print(f"{emptied} records were deleted, {due} events are due again: start the services.", highlight=False)


async def _refuse_running(dsns: Mapping[str, str], owner: str) -> None:
    """Raise Failure while a relay publishes: it holds this lock as long as its process lives."""
    async with acting_as_worker(dsns[owner], owner) as connection:
        if not await connection.fetchval("SELECT pg_try_advisory_lock(hashtext($1))", f"cdds.outbox.{owner}"):
            raise Failure(f"{owner} is running: stop all services first")


async def _empty(cluster: Cluster) -> int:
    """Delete every record, and say how many it were."""
    async with administrator(cluster) as admin:
        existing = set(await admin.list_topics())
        names = [topic.name for topic in topic_settings(1, 1) if topic.name in existing]
        places = [
            TopicPartition(topic["topic"], partition["partition"])
            for topic in await admin.describe_topics(names)
            for partition in topic["partitions"]
        ]
        ends = await admin.delete_records({place: RecordsToDelete(before_offset=_TO_THE_END) for place in places})
        return sum(ends.values())


async def _pass_positions(dsn: str) -> None:
    """Give no position again: who has seen one that was lost would wait for as many events to pass."""
    async with acting_as_worker(dsn, "history") as connection:
        await connection.execute(
            "SELECT count(nextval('history.positions')) FROM generate_series(1, $1::bigint)", POSITIONS, timeout=600
        )
