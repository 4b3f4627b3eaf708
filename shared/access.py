"""Whether Kafka lets this process in, and lets it do what it has to; if not, why, and what to do about it.

aiokafka logs why it can't connect and raises something that does not say it, and consumers without a permission wait
silently. So a service asks first, in Kafka's own protocol, which says what a principal may do (KIP-430).
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaError,
    NotCoordinatorForGroupError,
    for_code,
)
from aiokafka.protocol.coordination import FindCoordinatorRequest

from shared.brokers import ANSWER, answer_of, connection_to, connection_to_any, is_away
from shared.cluster import Cluster, Refused
from shared.permitted import GroupsRequest, TopicsRequest, operations
from shared.rights import Operation, Rights

_RETRY_SECONDS: Final = 0.2
_UNKNOWN_TOPIC: Final = 3
_NOT_PERMITTED: Final = (29, 30)
"""Kafka's error codes; a topic or group that may not even be described has no operations."""
_COORDINATOR_OF_GROUP: Final = 0


@dataclass(frozen=True, slots=True)
class Found:
    """What of the rights that were asked about is there."""

    missing: tuple[str, ...]
    """Topics that do not exist."""
    lacking: Rights
    """Operations that are not permitted."""


async def look(cluster: Cluster, rights: Rights) -> Found:
    """Compare what the principal may do with what it has to be allowed; raises Refused, KafkaError."""
    async with connection_to_any(cluster) as connection:
        answer: Any = await answer_of(connection, TopicsRequest(list(rights.topics)))
        missing: list[str] = []
        topics: dict[str, frozenset[Operation]] = {}
        groups: dict[str, frozenset[Operation]] = {}
        for code, name, _, _, *said in answer.topics:
            if code == _UNKNOWN_TOPIC:
                missing.append(name)
            elif code in _NOT_PERMITTED or said:
                may = set() if code in _NOT_PERMITTED else operations(said[0])
                if lacks := rights.topics[name] - may:
                    topics[name] = lacks
        for group, wanted in rights.groups.items():
            if lacks := wanted - await _permitted(cluster, connection, group):
                groups[group] = lacks
    return Found(tuple(sorted(missing)), Rights(topics, groups))


def require(cluster: Cluster, found: Found) -> None:
    """Raise Refused, naming all that is not there."""
    if refused := lacks(cluster, found.lacking):
        raise refused
    if found.missing:
        raise Refused(
            f"Kafka has no topics {', '.join(found.missing)}", "`cdds topics ensure` makes them", reached=True
        )


def lacks(cluster: Cluster, lacking: Rights) -> Refused | None:
    """That these operations are not permitted, if there are any."""
    alike: dict[tuple[str, str], list[str]] = {}
    for kind, resources in (("topics", lacking.topics), ("groups", lacking.groups)):
        for name in sorted(resources):
            alike.setdefault((" and ".join(map(str, sorted(resources[name]))), kind), []).append(name)
    if not alike:
        return None
    said = "; ".join(f"{operations} on {kind} {', '.join(names)}" for (operations, kind), names in alike.items())
    return Refused(
        f"Kafka does not permit {cluster.principal} {said}",
        "`cdds topics acls` says what each principal needs, and how to permit it",
        reached=True,
    )


async def keep_looking(cluster: Cluster, rights: Rights, interval: timedelta) -> None:
    """Raise Refused soon after something that is needed was taken away; outages are others' to notice."""
    while True:
        await asyncio.sleep(interval.total_seconds())
        try:
            found = await look(cluster, rights)
        except (Refused, KafkaError, OSError):
            continue
        if refused := lacks(cluster, found.lacking):
            raise refused


async def reason(cluster: Cluster) -> Refused | None:
    """Why the cluster can't be spoken to; None if it can, though some of its brokers may be away."""
    away: list[Refused] = []
    try:
        async with connection_to_any(cluster) as connection:
            answer: Any = await answer_of(connection, TopicsRequest([]))
        for _, host, port, _ in answer.brokers:
            try:
                async with connection_to(cluster, host, port):
                    pass
            except Refused as refused:
                if not is_away(refused):
                    raise
                away.append(refused)
    except Refused as refused:
        return refused
    except (KafkaError, OSError) as error:
        return Refused(f"Kafka at {cluster.bootstrap} does not do it: {error!r}", "read the log of the brokers")
    if len(away) < len(answer.brokers):
        return None
    return Refused(
        f"{cluster.bootstrap} answers, but names brokers that do not: {away[0].message}",
        "set advertised.listeners of the brokers to addresses that can be reached from here",
    )


async def _permitted(cluster: Cluster, connection: AIOKafkaConnection, group: str) -> set[Operation]:
    """What may be done with a group; one that was never there has a coordinator, too, as soon as Kafka has made it."""
    async with asyncio.timeout(ANSWER.total_seconds()):
        while True:
            found: Any = await answer_of(connection, FindCoordinatorRequest(group, _COORDINATOR_OF_GROUP))
            if found.error_code in _NOT_PERMITTED:
                return set()
            if not found.error_code:
                try:
                    async with connection_to(cluster, found.host, found.port) as coordinator:
                        answer: Any = await answer_of(coordinator, GroupsRequest([group]))
                except Refused as refused:
                    if not is_away(refused):
                        raise
                else:
                    [(code, _, _, _, _, _, *said)] = answer.groups
                    if code in _NOT_PERMITTED:
                        return set()
                    if not code:
                        return operations(said[0]) if said else set(Operation)
            elif for_code(found.error_code) not in _PASSING:
                raise for_code(found.error_code)(group)
            await asyncio.sleep(_RETRY_SECONDS)


_PASSING: Final = (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError)
