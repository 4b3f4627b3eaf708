"""The inbox of a service: the events it consumes, with decoding, retry, dead letter and acknowledgement in one place.

FastStream's acknowledgement policies can't say "retry, then dead-letter the record, but never in an outage", so the
inbox takes raw batches from it, commits offsets itself after the handlers' database transactions, and ends the process
when PostgreSQL or the broker stays away.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any, Final, TypeVar, cast

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage
from faststream.kafka.message import KafkaAckableMessage
from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512
from structlog.contextvars import bound_contextvars

from shared import failpoints
from shared.cluster import Cluster, Mechanism
from shared.database import is_outage, outlast
from shared.events import Event
from shared.gathering import Events, Gathering, Handler, Stretch, ids_of
from shared.messaging import MAX_RECORD_BYTES, Producer, RawRecord, Undecodable, decode
from shared.observability import CONSUMED, CONSUMER_LAG, log
from shared.tracing import tracer

E = TypeVar("E", bound=Event)
G = TypeVar("G", bound=Gathering)

HANDLER_TRIES: Final = 3
"""A handler that fails on a record is tried at once, after 0.1 s and after 0.4 s; then the record is dead-lettered."""
STALLED_AFTER: Final = timedelta(seconds=60)
FETCH_SECONDS: Final = 0.01
"""Long enough for a fetch or two, each of up to 8 MiB a partition."""
DECODED_AT_ONCE: Final = 100
"""Records, about 1 ms; then whoever waits for the database has its turn."""
STOP_GRACE_SECONDS: Final = 3
"""What a handler gets to end at a stop, before its record is left to the next start."""


class Stalled(Exception):
    """Records wait, and none was finished for `STALLED_AFTER`."""


class Inbox:
    """What a service does with the events it consumes; at least once, in order per key, never skipping one.

    A handler's database transaction is committed before the offset is. A record that can't be read or makes its
    handler fail repeatedly is put on `<topic>.dead`; an outage is waited out, then `run` raises.
    """

    def __init__(
        self,
        service: str,
        producer: Producer,
        patience: timedelta,
        member: str | None = None,
        batch_records: int = 500,
        follows_for: timedelta | None = None,
    ) -> None:
        """With `follows_for`, events that are older change nothing: what they did may have been forgotten."""
        self._service = service
        self._producer = producer
        self._patience = patience
        self._member = member
        self._batch_records = batch_records
        self._follows_for = follows_for
        self._handlers: dict[type[Event], Handler] = {}
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._handling: asyncio.Task[None] | None = None
        self._stopping = False
        self._moved_at = asyncio.get_running_loop().time()
        self._lag = 0

    def on(self, *types: type[E]) -> Callable[[Callable[[E], Awaitable[None]]], Callable[[E], Awaitable[None]]]:
        """Register a handler called with one event of `types` at a time."""

        def register(handle: Callable[[E], Awaitable[None]]) -> Callable[[E], Awaitable[None]]:
            async def each(events: Events) -> None:
                for event in events:
                    with bound_contextvars(**ids_of(event)):
                        await handle(cast(E, event))

            self.on_batch(Events, each, types)
            return handle

        return register

    def on_batch(
        self, gathering: Callable[[], G], handle: Callable[[G], Awaitable[None]], types: Iterable[type[Event]]
    ) -> None:
        """Register a handler called with what many events of `types` were gathered in, as their partitions had them.

        It gathers while the handler works on what came before; so decoding and gathering cost no time of their own.
        """
        self._handlers.update(dict.fromkeys(types, Handler(gathering, handle)))

    @property
    def topics(self) -> list[str]:
        """The topics of the events that have a handler."""
        return sorted({event.topic.name for event in self._handlers})

    def broker(self, cluster: Cluster) -> KafkaBroker:
        """The FastStream broker with this inbox as its only subscriber; also the source of the AsyncAPI document."""

        # FastStream's own parser fails on headers that are not UTF-8; ours touches nothing and leaves decoding to us.
        async def keep_raw(records: tuple[RawRecord, ...]) -> KafkaAckableMessage:
            return KafkaAckableMessage(body=b"", raw_message=records, consumer=subscriber.consumer)

        async def decode_later(_: object) -> list[object]:
            return []

        async def consume(events: Any, message: KafkaMessage) -> None:
            await self._deliver(message)

        consume.__annotations__ = {"events": list[reduce(or_, self._handlers)], "message": KafkaMessage}
        consume.__doc__ = f"What {self._service} consumes."
        broker = KafkaBroker(
            cluster.bootstrap,
            security=_security(cluster),
            client_id=self._service,
            ack_policy=AckPolicy.MANUAL,
            consumer_only=True,
            logger=None,
            # Shorter than the bound on the whole stop in `run`, so that the consumer always leaves its group.
            graceful_timeout=STOP_GRACE_SECONDS,
            parser=keep_raw,
            decoder=decode_later,
        )
        subscriber = broker.subscriber(
            *self.topics,
            group_id=self._service,
            # A process that comes back under its name need not wait until its dead predecessor's session runs out.
            group_instance_id=self._member,
            batch=True,
            max_records=self._batch_records,
            batch_timeout_ms=100,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=MAX_RECORD_BYTES,
        )
        subscriber(consume)
        return broker

    async def run(self, cluster: Cluster, fetch_pause: timedelta = timedelta(0)) -> None:
        """Consume until cancelled; raises when an outage outlasts the patience."""
        for topic in self.topics:
            CONSUMED.labels(topic, "dead")  # from 0 on, or Prometheus would not see the first one as an increase
        broker = self.broker(cluster)
        try:
            await broker.start()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch(broker))
                if fetch_pause:
                    tasks.create_task(self._pause_between_fetches(broker, fetch_pause.total_seconds()))
                await self._failed
        finally:
            self._stopping = True
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(STOP_GRACE_SECONDS):
                        await self._handled()
                async with asyncio.timeout(10):
                    await broker.stop()
            finally:
                if self._handling is not None:
                    self._handling.cancel()
                    await asyncio.gather(self._handling, return_exceptions=True)

    async def check(self) -> None:
        """Raise Stalled when records wait and none was finished for a minute: the consumer or a handler is stuck."""
        if self._waiting and asyncio.get_running_loop().time() - self._moved_at > STALLED_AFTER.total_seconds():
            raise Stalled(f"{self._lag} records wait")

    async def _deliver(self, message: KafkaMessage) -> None:
        """Decode a batch while the one before it is being handled; both in order, and never more than these two."""
        raw = message.raw_message
        records: tuple[RawRecord, ...] = raw if isinstance(raw, tuple) else (raw,)
        await self._unless_failed(self._read(records, message.consumer))

    async def _read(self, records: Sequence[RawRecord], consumer: Any) -> None:
        stretches = await self._decode(records)
        await self._handled()
        if self._stopping:
            return  # not committed: it comes again
        self._handling = asyncio.create_task(self._unless_failed(self._handle(stretches, records, consumer)))

    async def _unless_failed(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            # FastStream would log this and go on with the next batch, losing this one: end the process instead.
            if not self._failed.done():
                self._failed.set_exception(error)
            await asyncio.Event().wait()

    async def _handled(self) -> None:
        """Wait for the batch that is being handled, if there is one."""
        if self._handling is not None:
            await asyncio.shield(self._handling)

    async def _handle(self, stretches: Sequence[Stretch], records: Sequence[RawRecord], consumer: Any) -> None:
        for stretch in stretches:
            await self._apply(stretch)
        failpoints.reached("inbox.handled")
        await self._commit(consumer, {TopicPartition(r.topic, r.partition): r.offset + 1 for r in records})
        self._moved_at = asyncio.get_running_loop().time()

    async def _commit(self, consumer: Any, ends: dict[TopicPartition, int]) -> None:
        try:
            await consumer.commit(ends)
        except KafkaError as error:
            # The group has rebalanced: the records come again, to us or to another replica, and change nothing.
            log.warning("offsets not committed", error=repr(error))

    async def _decode(self, records: Sequence[RawRecord]) -> list[Stretch]:
        """Gather neighbours with the same handler, so that order is kept and batches stay large."""
        stretches: list[Stretch] = []
        for number, record in enumerate(records, 1):
            if number % DECODED_AT_ONCE == 0:
                await asyncio.sleep(0)
            try:
                event = decode(record)
            except Undecodable as error:
                await self._bury(record, str(error))
                continue
            handler = self._handlers.get(type(event))
            if handler is None:
                CONSUMED.labels(record.topic, "ignored").inc()
                continue
            if self._too_old(event):
                CONSUMED.labels(record.topic, "too_old").inc()
                log.warning("event is too old to be followed", type=event.type_name(), at=str(event.occurred_at))
                continue
            alone = tracer().on and handler.gathering is Events
            if not stretches or stretches[-1].handler is not handler or alone:
                stretches.append(Stretch(handler))
            stretches[-1].add(record, event)
        return stretches

    def _too_old(self, event: Event) -> bool:
        if self._follows_for is None or event.lasting:
            return False
        return datetime.now(UTC) - event.occurred_at > self._follows_for

    async def _apply(self, stretch: Stretch) -> None:
        together = stretch.handler.gathering is not Events
        topic, ids = stretch.records[0].topic, stretch.ids()
        came_in = stretch.contexts() if tracer().on else ()
        with (
            bound_contextvars(**ids),
            tracer().handle(f"handle {topic}", came_in, together=together, topic=topic, **ids),
        ):
            await self._handle_or_bury(stretch)

    async def _handle_or_bury(self, stretch: Stretch) -> None:
        for attempt in range(1, HANDLER_TRIES + 1):
            try:
                await outlast(stretch.handle, self._patience)
            except Exception as error:
                if is_outage(error):
                    raise
                log.exception("handler failed", tries=attempt, events=len(stretch.records))
                if len(stretch.records) > 1:
                    # One of them is at fault: find it by taking them one by one.
                    for record in stretch.records:
                        one = Stretch(stretch.handler)
                        one.add(record, decode(record))
                        await self._apply(one)
                    return
                if attempt == HANDLER_TRIES:
                    await self._bury(stretch.records[0], f"the handler failed {attempt} times: {error!r}", error)
                    return
                await asyncio.sleep(0.1 * 4 ** (attempt - 1))
            else:
                for topic, count in Counter(record.topic for record in stretch.records).items():
                    CONSUMED.labels(topic, "applied").inc(count)
                return

    async def _bury(self, record: RawRecord, reason: str, error: BaseException | None = None) -> None:
        await self._producer.bury(record, reason, self._service, error)
        CONSUMED.labels(record.topic, "dead").inc()
        log.error(
            "record dead-lettered", topic=record.topic, partition=record.partition, offset=record.offset, reason=reason
        )

    async def _watch(self, broker: KafkaBroker) -> None:
        """Measure the lag; raises when the broker stays away or the consumer has gone silent."""
        loop = asyncio.get_running_loop()
        answered_at = loop.time()
        patience = self._patience.total_seconds()
        seconds = min(5, max(1, patience))
        while True:
            await asyncio.sleep(seconds)
            try:
                async with asyncio.timeout(2 * seconds):
                    await self._measure(broker)
                answered_at = loop.time()
                await self.check()
            except (KafkaError, TimeoutError) as error:
                log.warning("broker does not answer", error=repr(error))
                if loop.time() - answered_at > patience:
                    raise

    async def _pause_between_fetches(self, broker: KafkaBroker, seconds: float) -> None:
        """Hold the consumer back: without long polling it would ask thousands of times a second (seen: 3,500)."""
        while True:
            await asyncio.sleep(FETCH_SECONDS)
            for consumer in _consumers(broker):
                consumer.pause(*consumer.assignment())
            await asyncio.sleep(seconds)
            for consumer in _consumers(broker):
                consumer.resume(*consumer.assignment())

    async def _measure(self, broker: KafkaBroker) -> None:
        self._lag = 0
        # Also of the topics of which this replica has no partition any more.
        behind = dict.fromkeys(self.topics, 0)
        for consumer in _consumers(broker):
            # A broker that lost its data has lost the topics; they are made at the start of a service.
            if missing := [topic for topic in self.topics if not consumer.partitions_for_topic(topic)]:
                raise UnknownTopicOrPartitionError(", ".join(missing))
            if not (partitions := consumer.assignment()):
                continue
            for partition, end in (await consumer.end_offsets(partitions)).items():
                behind[partition.topic] += max(0, end - await consumer.position(partition))
        for topic, lag in behind.items():
            CONSUMER_LAG.labels(topic).set(lag)
            self._lag += lag
        if not self._waiting:
            self._moved_at = asyncio.get_running_loop().time()

    @property
    def _waiting(self) -> bool:
        """Whether there are records that were not handled yet; what was fetched is no lag any more."""
        return self._lag > 0 or (self._handling is not None and not self._handling.done())


_SASL: Final[Mapping[Mechanism, type[SASLPlaintext | SASLScram256 | SASLScram512]]] = {
    "PLAIN": SASLPlaintext,
    "SCRAM-SHA-256": SASLScram256,
    "SCRAM-SHA-512": SASLScram512,
}


def _security(cluster: Cluster) -> BaseSecurity | None:
    """The cluster's, as FastStream takes it."""
    if cluster.tls is None:
        return None
    if cluster.mechanism is None or cluster.username is None or cluster.password is None:
        return BaseSecurity(ssl_context=cluster.tls)
    return _SASL[cluster.mechanism](cluster.username, cluster.password.get_secret_value(), ssl_context=cluster.tls)


def _consumers(broker: KafkaBroker) -> Iterator[AIOKafkaConsumer]:
    """The consumers of the broker's subscribers that are connected."""
    for subscriber in broker.subscribers:
        consumer: AIOKafkaConsumer | None = getattr(subscriber, "consumer", None)
        if consumer is not None:
            yield consumer
