"""Kafka: reachable, recent, with the topics as they shall be, consumers that move, and nothing put aside."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from aiokafka.protocol.admin import ApiVersionRequest
from aiokafka.structs import OffsetAndMetadata

from cli import topics
from cli.broker import administrator
from cli.console import Failure
from cli.dead_letters.records import Selection, find
from cli.doctor.checking import CONNECT_SECONDS, bounded, counted
from cli.doctor.configuration import Read
from cli.doctor.findings import Finding, Status, failed, ok, warning
from cli.installation import STATEFUL, Installation
from shared import access
from shared.cluster import Cluster, Refused
from shared.config import ServiceSettings
from shared.messaging import topic_settings
from shared.rights import OPERATOR, RIGHTS, Operation, Rights

Offsets: TypeAlias = Mapping[TopicPartition, OffsetAndMetadata]
Bounds: TypeAlias = Mapping[TopicPartition, int]

CHECK: Final = "kafka"
MOVES_WITHIN: Final = timedelta(seconds=8)
"""A consumer that has records to handle commits several times a second."""
_LOOK_SECONDS: Final = 0.5
_LOOKING: Final = {Operation.DESCRIBE, Operation.DESCRIBE_CONFIGS}
_FETCH: Final = 1
_INIT_PRODUCER: Final = 22
"""API keys of Kafka's protocol."""


async def check(installation: Installation, settings: Read) -> list[Finding]:
    """All checks on the broker; when it is away, or lets nobody in, that is the only finding."""
    try:
        cluster = installation.cluster()
    except Failure as failure:
        return [failed(CHECK, "broker", str(failure), "correct it; CDDS_KAFKA_… is what commands come with")]
    if cluster is None:
        message = "no address is known here, so topics and consumers were not checked"
        return [warning(CHECK, "broker", message, "give --kafka HOST:PORT, or set CDDS_JOB_API_KAFKA and the others")]
    if refused := await _refused(cluster):
        local = installation.is_local and not refused.reached
        remedy = "is the stack's broker running? its log is in logs/ of the stack's folder" if local else refused.remedy
        return [failed(CHECK, "broker", refused.message, remedy, reached=refused.reached)]
    async with administrator(cluster) as admin:
        nodes = len((await admin.describe_cluster())["brokers"])
    services = {name: known for name, known in settings.services.items() if isinstance(known, ServiceSettings)}
    expected = next(iter(services.values()), None)
    partitions, replication = (6, 1) if expected is None else (expected.kafka_partitions, expected.kafka_replication)
    lacking = (await access.look(cluster, RIGHTS[OPERATOR])).lacking
    found = await asyncio.gather(
        bounded(CHECK, "version", _version(cluster)),
        bounded(CHECK, "permissions", _permissions(cluster, lacking, services)),
        bounded(CHECK, "topics", _topics(cluster, lacking, partitions, replication, nodes)),
        bounded(CHECK, "consumers", _consumers(cluster, lacking)),
        bounded(CHECK, "dead letters", _dead_letters(cluster)),
    )
    answered = ok(CHECK, "broker", f"{cluster.bootstrap} answers, {counted(nodes, 'broker')}", reached=True)
    return [answered, *(finding for findings in found for finding in findings)]


async def _refused(cluster: Cluster) -> Refused | None:
    """Why Kafka can't be asked anything."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await access.reason(cluster)
    except TimeoutError:
        remedy = "see that Kafka runs, and that its advertised.listeners can be reached from here"
        return Refused(f"Kafka at {cluster.bootstrap} does not answer within {CONNECT_SECONDS} s", remedy)


async def _permissions(cluster: Cluster, lacking: Rights, services: Mapping[str, ServiceSettings]) -> list[Finding]:
    """Whether whoever looks, and each service as which it can come, may do what they have to."""
    findings: list[Finding] = []
    if refused := access.lacks(cluster, lacking):
        remedy = f"{refused.remedy}; what is said of topics and consumers may not be all"
        findings.append(warning(CHECK, "permissions", refused.message, remedy))
    for name, known in services.items():
        try:
            refused = access.lacks(known.cluster, (await access.look(known.cluster, RIGHTS[name])).lacking)
        except Refused as raised:
            refused = raised
        if refused:
            findings.append(failed(CHECK, name, refused.message, refused.remedy))
    return findings or [ok(CHECK, "permissions", "whoever looks, and each service, may do all they have to")]


async def _version(cluster: Cluster) -> list[Finding]:
    """What generation the broker is of; it does not say its version, but Kafka 4.0 dropped old requests (KIP-896)."""
    client = AIOKafkaClient(**cluster.client())
    try:
        await client.bootstrap()
        answer: Any = await client.send(client.get_random_node(), ApiVersionRequest())
    finally:
        await client.close()
    oldest = {key: low for key, low, _ in answer.api_versions}
    if _INIT_PRODUCER not in oldest:
        message = "it knows no idempotent producers, so events could be written twice or out of order"
        return [failed(CHECK, "version", message, "use Apache Kafka 4.0 or later")]
    if oldest.get(_FETCH, 0) < 4:
        return [ok(CHECK, "version", "it speaks the protocol of before Apache Kafka 4.0 too; CDDS is tested with 4.x")]
    return [ok(CHECK, "version", "Apache Kafka 4.0 or later")]


async def _topics(cluster: Cluster, lacking: Rights, partitions: int, replication: int, nodes: int) -> list[Finding]:
    """Whether every topic that may be looked at is there, as it shall be, and whole."""
    hidden = {name for name, operations in lacking.topics.items() if operations & _LOOKING}
    wanted = [topic for topic in topic_settings(partitions, replication) if topic.name not in hidden]
    findings: list[Finding] = []
    async with administrator(cluster) as admin:
        compared = await topics.compare(admin, wanted)
        missing = {topic.name for topic in compared.missing}
        described: list[Any] = await admin.describe_topics([t.name for t in wanted if t.name not in missing])
    if missing:
        message = f"missing: {', '.join(sorted(missing))}"
        findings.append(failed(CHECK, "topics", message, "`cdds topics ensure` makes them, and so does every service"))
    findings += [
        warning(CHECK, "topics", f"{one.topic}: {one.setting} is {one.found}, not {one.wanted}", one.remedy)
        for one in compared.differences
    ]
    parts = [(topic["topic"], part) for topic in described for part in topic["partitions"]]
    if leaderless := sorted({name for name, part in parts if part["leader"] < 0}):
        message = f"partitions have no leader: {', '.join(leaderless)}"
        findings.append(failed(CHECK, "topics", message, "start the brokers that are away"))
    elif behind := sorted({name for name, part in parts if len(part["isr"]) < len(part["replicas"])}):
        message = f"replicas are behind: {', '.join(behind)}"
        findings.append(warning(CHECK, "topics", message, "see whether all brokers run and keep up"))
    if nodes > 1 and replication == 1:
        message = f"there are {nodes} brokers and one replica of each topic"
        findings.append(warning(CHECK, "topics", message, "set CDDS_…_KAFKA_REPLICATION to 3 for new topics"))
    return findings or [ok(CHECK, "topics", f"all {len(wanted)} are as they shall be")]


@dataclass(frozen=True, slots=True)
class _Group:
    """A service's consumer group."""

    name: str
    state: str
    members: int
    topics: frozenset[str]
    """What the members asked for, and what was ever committed for."""


async def _consumers(cluster: Cluster, lacking: Rights) -> list[Finding]:
    """Whether each service consumes: it is a member of its group, and what it has to do becomes less."""
    visible = [name for name in STATEFUL if name not in lacking.groups]
    async with administrator(cluster) as admin:
        present = {name for name, *_ in await admin.list_consumer_groups()}
        groups = [await _group(admin, name) for name in visible if name in present]
        bounds = await _bounds(cluster, admin, sorted({topic for group in groups for topic in group.topics}))
        first = {group.name: await admin.list_consumer_group_offsets(group.name) for group in groups}
        waiting = {group.name: _lag(group, first[group.name], *bounds) for group in groups}
        stuck = {name for name, lag in waiting.items() if lag > 0}
        deadline = asyncio.get_running_loop().time() + MOVES_WITHIN.total_seconds()
        # A group that nobody is in will not move, however long one looks.
        watched = stuck & {group.name for group in groups if group.members}
        while watched and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_LOOK_SECONDS)
            now = {name: await admin.list_consumer_group_offsets(name) for name in watched}
            watched = {name for name in watched if _position(now[name]) <= _position(first[name])}
            stuck &= watched | {group.name for group in groups if not group.members}
    findings = [
        warning(CHECK, "consumers", f"{name} has never consumed anything", f"start {name}, if it was not just made")
        for name in visible
        if name not in present
    ]
    return findings + [_judged(group, waiting[group.name], moves=group.name not in stuck) for group in groups]


def _judged(group: _Group, lag: int, *, moves: bool) -> Finding:
    behind = f"{counted(lag, 'record')} behind"
    if not group.members:
        status = Status.FAILED if lag else Status.WARNING
        message = f"nobody consumes for {group.name}" + (f", which is {behind}" if lag else "")
        return Finding(CHECK, "consumers", status, message, f"start {group.name}")
    if not lag:
        return ok(CHECK, "consumers", f"{group.name} has handled everything")
    if moves:
        return ok(CHECK, "consumers", f"{group.name} is {behind} and gets on")
    if group.state != "Stable":
        message = f"{group.name} is {behind}; its group is dividing the partitions anew ({group.state})"
        return warning(CHECK, "consumers", message, "look again in a minute")
    message = f"{group.name} is {behind} and did not move for {MOVES_WITHIN.total_seconds():g} s"
    return failed(CHECK, "consumers", message, f"read the log of {group.name}; start it again when it says nothing")


async def _group(admin: AIOKafkaAdminClient, name: str) -> _Group:
    [answer] = await admin.describe_consumer_groups([name])
    [(_, _, state, _, _, members)] = answer.groups  # pyright: ignore[reportAttributeAccessIssue]
    asked = {
        topic
        for _, _, _, metadata, _ in members
        for topic in ConsumerProtocolMemberMetadata.decode(metadata).subscription
    }
    committed = {partition.topic for partition in await admin.list_consumer_group_offsets(name)}
    return _Group(name, state, len(members), frozenset(asked | committed))


def _position(committed: Offsets) -> int:
    """How far a group is, over all partitions; it only grows."""
    return sum(max(0, offset.offset) for offset in committed.values())


def _lag(group: _Group, committed: Offsets, begins: Bounds, ends: Bounds) -> int:
    """How many records a group has to handle still."""
    return sum(
        max(0, end - max(begins[at], committed[at].offset if at in committed else 0))
        for at, end in ends.items()
        if at.topic in group.topics
    )


async def _bounds(cluster: Cluster, admin: AIOKafkaAdminClient, names: Sequence[str]) -> tuple[Bounds, Bounds]:
    """Where the partitions of topics begin and end."""
    existing = set(await admin.list_topics())
    described: list[Any] = await admin.describe_topics([name for name in names if name in existing]) if names else []
    partitions = [TopicPartition(t["topic"], part["partition"]) for t in described for part in t["partitions"]]
    if not partitions:
        return {}, {}
    consumer = AIOKafkaConsumer(**cluster.client(), group_id=None, enable_auto_commit=False)
    try:
        await consumer.start()
        return await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    finally:
        await consumer.stop()


async def _dead_letters(cluster: Cluster) -> list[Finding]:
    """Whether records were put aside and not replayed."""
    found = await find(cluster, Selection())
    waiting = [letter for letter in found if letter.replayed_at is None]
    if not waiting:
        return [ok(CHECK, "dead letters", f"none waits, {len(found):,} were replayed" if found else "there are none")]
    handlers = ", ".join(sorted({letter.handler or "somebody" for letter in waiting}))
    message = (
        f"{counted(len(waiting), 'record')} put aside by {handlers}, the last at {waiting[-1].at:%Y-%m-%d %H:%M} UTC"
    )
    remedy = "`cdds dead-letters list --waiting` says why; `cdds dead-letters replay` brings them back"
    return [warning(CHECK, "dead letters", message, remedy)]
