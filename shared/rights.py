"""What each principal has to be allowed on Kafka, and no more: the one table that starts, checks and ACLs go by."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from shared.events import CERTIFICATES, EXPORTED_RUNS, JOBS, SCHEDULED_RUNS, TOPICS, Topic


class Operation(IntEnum):
    """Kafka's operations that are used here, with the numbers they have in its protocol (KIP-430)."""

    READ = 3
    WRITE = 4
    CREATE = 5
    ALTER = 7
    DESCRIBE = 8
    DESCRIBE_CONFIGS = 10
    ALTER_CONFIGS = 11

    def __str__(self) -> str:
        """As `kafka-acls.sh` writes it."""
        return "".join(part.capitalize() for part in self.name.split("_"))


@dataclass(frozen=True, slots=True)
class Rights:
    """Operations by topic and by consumer group.

    Read and Write let one Describe, too. Whoever may write any topic may write idempotently (KIP-679).
    """

    topics: Mapping[str, frozenset[Operation]]
    groups: Mapping[str, frozenset[Operation]]


CONSUMES: Final[Mapping[str, tuple[Topic, ...]]] = {
    "job_api": (SCHEDULED_RUNS, EXPORTED_RUNS),
    "scheduler": (JOBS, EXPORTED_RUNS),
    "exporter": (SCHEDULED_RUNS, CERTIFICATES),
    "history": TOPICS,
}
"""What each service reads, in a group that is named like it; `console` does not speak to Kafka."""
READS_REPLAYS: Final = "history"
OPERATOR: Final = "operator"
"""Whoever runs `cdds doctor` and `cdds dead-letters`."""
ADMINISTRATOR: Final = "administrator"
"""Whoever runs `cdds topics ensure`."""

_Wanted = tuple[str, Operation]


def _service(name: str) -> Rights:
    topics: list[_Wanted] = []
    for topic in CONSUMES[name]:
        topics += [(topic.name, Operation.READ), (topic.dead, Operation.WRITE)]
    for topic in TOPICS:
        if topic.owner == name:
            topics += [(topic.name, Operation.WRITE), (topic.replay, Operation.WRITE)]
        if name == READS_REPLAYS:
            topics.append((topic.replay, Operation.READ))
    return _rights(topics, [(name, Operation.READ)])


def _operator() -> Rights:
    topics: list[_Wanted] = []
    for topic in TOPICS:
        for name in (topic.name, topic.dead, topic.replay):
            topics += [(name, Operation.DESCRIBE), (name, Operation.DESCRIBE_CONFIGS)]
        # Dead letters are read, replayed where they came from, and marked.
        topics += [(topic.name, Operation.WRITE), (topic.dead, Operation.READ), (topic.dead, Operation.WRITE)]
    return _rights(topics, [(group, Operation.DESCRIBE) for group in CONSUMES])


def _administrator() -> Rights:
    operations = (
        Operation.CREATE, Operation.DESCRIBE, Operation.ALTER, Operation.DESCRIBE_CONFIGS, Operation.ALTER_CONFIGS,
    )  # fmt: skip
    names = [name for topic in TOPICS for name in (topic.name, topic.dead, topic.replay)]
    return _rights([(name, operation) for name in names for operation in operations], [])


def _rights(topics: Iterable[_Wanted], groups: Iterable[_Wanted]) -> Rights:
    return Rights(_gathered(topics), _gathered(groups))


def _gathered(wanted: Iterable[_Wanted]) -> dict[str, frozenset[Operation]]:
    found: dict[str, set[Operation]] = {}
    for name, operation in wanted:
        found.setdefault(name, set()).add(operation)
    return {name: frozenset(found[name]) for name in sorted(found)}


RIGHTS: Final[Mapping[str, Rights]] = {
    **{name: _service(name) for name in CONSUMES},
    OPERATOR: _operator(),
    ADMINISTRATOR: _administrator(),
}
