"""Rebuilds history from what its owners copy out of their outboxes, when somebody asked for it.

The events come from the replay topics, one topic after the other, so that runs are known before it is told how they
went. Meanwhile the live projection fills the new tables, too. A rebuild whose process died is taken up again, from the
beginning of the topics: events that were read already change nothing.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from services.history.config import Settings
from services.history.domain.batch import Batch
from services.history.domain.rebuilds import Rebuild, RebuildState
from services.history.store import SHADOW, Store
from shared import failpoints, migration, replay, runtime
from shared.database import is_outage, outlast
from shared.events import TOPICS, Event, Topic
from shared.messaging import MAX_RECORD_BYTES, RawRecord, Undecodable, decode
from shared.observability import log

LOOK: Final = timedelta(seconds=1)
LOOK_FOR_LIVE: Final = timedelta(milliseconds=100)
BATCH_RECORDS: Final = 2000
SILENT_FOR: Final = timedelta(hours=1)
"""How long nothing may come before a rebuild, which costs the live projection as much again, is given up."""

Copy: TypeAlias = tuple[Event, bytes]
"""A copied event, and the JSON it came as."""


class Silence(Exception):
    """The owners copied nothing for `SILENT_FOR`: nobody asked them to, one does not run, or the broker lost it."""


class Rebuilder:
    """Works on the rebuild that was asked for; one replica at a time."""

    def __init__(self, service: str, settings: Settings, store: Store) -> None:
        self._service = service
        self._settings = settings
        self._store = store

    async def run(self) -> None:
        """Rebuild whenever it is asked for, until cancelled."""
        await runtime.every(LOOK, self.rebuild_asked, self._settings.outage_patience)

    async def rebuild_asked(self) -> int:
        """One pass: carry out the rebuild that was asked for, if any, and say how many it were."""
        async with self._store.rebuilding() as alone:
            if not alone:
                return 0
            rebuild = await self._store.rebuild_under_way()
            if rebuild is None:
                return await self._store.clear()
            try:
                await self._rebuild(rebuild)
            except KafkaError as error:
                # How long the broker may stay away is the inbox's concern.
                log.warning("rebuild waits for the broker", error=repr(error))
                return 0
            except Exception as error:
                if is_outage(error):
                    raise
                # Live goes on, whatever is wrong with the copies.
                log.exception("rebuild given up")
                await self._store.give_up(rebuild, repr(error))
            await self._store.clear()
        return 1

    async def _rebuild(self, rebuild: Rebuild) -> None:
        if rebuild.state == RebuildState.ASKED:
            await self._store.clear()
            dsn = self._settings.postgres.get_secret_value()
            await migration.migrate(dsn, self._service, outbox=False, schema=SHADOW)
            await self._store.make_shadow(rebuild)
        copies = _Copies(self._settings, self._store, rebuild)
        for topic in TOPICS:
            if not await copies.read(topic):
                return
        await self._until_live_has_caught_up()
        failpoints.reached("rebuild.copied")
        await self._store.recount_shadow()
        tables = await self._store.compare()
        report = {
            "events": sum(copies.counts.values()),
            "unreadable": copies.unreadable,
            "tables": [{"table": t.table, "live": t.live, "rebuilt": t.rebuilt, "equal": t.equal} for t in tables],
        }
        await self._store.conclude(rebuild, report)
        failpoints.reached("rebuild.concluded")

    async def _until_live_has_caught_up(self) -> None:
        """Wait until live has projected all that the outboxes had when they were copied."""
        client = self._settings.cluster.client()
        partitions = await _partitions_of(client, [topic.name for topic in TOPICS])
        async with AIOKafkaConsumer(**client, group_id=self._service, enable_auto_commit=False) as group:
            targets = await group.end_offsets(partitions)
            while True:
                # A broker that lost its records counts from the beginning again.
                ends, begins = await group.end_offsets(partitions), await group.beginning_offsets(partitions)
                reached = {place: max(await group.committed(place) or 0, begins[place]) for place in partitions}
                if all(reached[place] >= min(targets[place], ends[place]) for place in partitions):
                    return
                await asyncio.sleep(LOOK_FOR_LIVE.total_seconds())


class _Copies:
    """What the owners copied for one rebuild."""

    def __init__(self, settings: Settings, store: Store, rebuild: Rebuild) -> None:
        self._settings = settings
        self._store = store
        self._rebuild = rebuild
        self._mark = str(rebuild.rebuild_id).encode()
        self.counts: dict[str, int] = {}
        self.unreadable = 0

    async def read(self, topic: Topic) -> bool:
        """Project a topic's events until the end marks of all partitions; False when the rebuild was given up.

        Raises Silence.
        """
        clock = asyncio.get_running_loop().time
        heard_at = clock()
        self.counts[topic.name] = 0
        async with AIOKafkaConsumer(
            topic.replay,
            **self._settings.cluster.client(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=MAX_RECORD_BYTES,
        ) as consumer:
            unfinished = await _partitions(consumer, topic.replay)
            while unfinished:
                fetched = await consumer.getmany(timeout_ms=500, max_records=BATCH_RECORDS)
                batch: list[Copy] = []
                for place, records in fetched.items():
                    ours = [record for record in records if dict(record.headers).get(replay.HEADER) == self._mark]
                    batch += self._decoded(ours)
                    heard_at = clock() if ours else heard_at
                    if any(dict(record.headers).get("ce_type") == replay.ENDED.encode() for record in ours):
                        unfinished.discard(place.partition)
                if not await self._project(batch):
                    return False
                if clock() - heard_at > SILENT_FOR.total_seconds():
                    raise Silence(topic.replay)
                if batch:
                    self.counts[topic.name] += len(batch)
                    await outlast(
                        lambda: self._store.tell_progress(self._rebuild, self.counts), self._settings.outage_patience
                    )
                    failpoints.reached("rebuild.projected")
        return True

    def _decoded(self, records: Sequence[RawRecord]) -> list[Copy]:
        """The events among them; live dead-letters the others."""
        events: list[Copy] = []
        for record in records:
            if dict(record.headers).get("ce_type") == replay.ENDED.encode():
                continue
            try:
                events.append((decode(record), record.value or b""))
            except Undecodable as error:
                self._skip(str(error))
        return events

    async def _project(self, batch: Sequence[Copy]) -> bool:
        """Apply a batch, or, where it fails, all events but those at fault, which live dead-letters, too."""
        try:
            said = Batch.of(batch)
            return await outlast(lambda: self._store.project_into_shadow(said), self._settings.outage_patience)
        except Exception as error:
            if is_outage(error):
                raise
            if len(batch) == 1:
                self._skip(repr(error))
                return True
        return all([await self._project([one]) for one in batch])

    def _skip(self, reason: str) -> None:
        self.unreadable += 1
        log.warning("copied event skipped", rebuild=str(self._rebuild.rebuild_id), reason=reason)


async def _partitions_of(client: Mapping[str, Any], topics: Sequence[str]) -> list[TopicPartition]:
    """The partitions of topics; a consumer that has subscribed to none hears of them after minutes only."""
    admin = AIOKafkaAdminClient(**client)
    try:
        await admin.start()
        described: list[Any] = await admin.describe_topics(list(topics))
    finally:
        await admin.close()
    if missing := [topic["topic"] for topic in described if not topic["partitions"]]:
        raise UnknownTopicOrPartitionError(", ".join(missing))
    return [TopicPartition(topic["topic"], part["partition"]) for topic in described for part in topic["partitions"]]


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    """The partitions of a topic, which the consumer may not have heard of yet."""
    while not (found := consumer.partitions_for_topic(topic)):
        await consumer.topics()
    return set(found)
