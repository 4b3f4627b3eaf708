"""Dead letters are published once more, on the topic they came from."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from cli.broker import administrator
from cli.dead_letters.records import MARK, REPLAYS, DeadLetter, Place, look_up, original_headers
from shared.cluster import Cluster
from shared.events import TOPICS
from shared.messaging import Producer, producer

CLIENT: Final = "cdds-dead-letters"
PATIENCE: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Replay:
    """A record that is published once more, for all the services that put it aside."""

    letter: DeadLetter
    others: Sequence[DeadLetter]
    """The same record, put aside by other services, or by the same one again."""
    topic: str

    @property
    def number(self) -> int:
        """How often it was replayed when this is done."""
        return self.letter.replays + 1


@dataclass(frozen=True, slots=True)
class Refusal:
    """A dead letter that can't be replayed."""

    letter: DeadLetter
    reason: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of a replay."""

    replay: Replay
    partition: int
    offset: int


async def plan(cluster: Cluster, letters: Iterable[DeadLetter]) -> tuple[list[Replay], list[Refusal]]:
    """What has to be published, in the order it first was, so that records of a key keep theirs; raises KafkaError."""
    async with administrator(cluster) as admin:
        existing = set(await admin.list_topics())
    known = {topic.name for topic in TOPICS}
    groups: dict[tuple[Place, bytes], list[DeadLetter]] = {}
    refused: list[Refusal] = []
    for letter in letters:
        source = letter.source
        if source is None:
            refused.append(Refusal(letter, "it does not say which topic it came from"))
        elif source.topic not in known:
            refused.append(Refusal(letter, f"it came from {source.topic!r}, which is none of this version's topics"))
        elif letter.left_out is not None:
            reason = f"its {letter.left_out:,} bytes were too many to be put aside: see {source}"
            refused.append(Refusal(letter, reason))
        elif source.topic not in existing:
            refused.append(Refusal(letter, f"{source.topic} does not exist: `cdds topics ensure` makes it"))
        else:
            groups.setdefault((source, letter.digest), []).append(letter)
    ordered = sorted(groups.items(), key=lambda group: (group[0][0], group[1][0].at))
    return [Replay(first, others, source.topic) for (source, _), (first, *others) in ordered], refused


async def carry_out(cluster: Cluster, replays: Sequence[Replay], done: Callable[[Replayed], None]) -> None:
    """Publish each record and mark its dead letters; `done` hears of each that Kafka has acknowledged.

    A record that was published and not yet marked when this is interrupted counts as not replayed; once more it changes
    nothing. Raises Failure, KafkaError.
    """
    places = [replay.letter.place for replay in replays]
    async with producer(cluster, CLIENT, PATIENCE) as kafka, aclosing(look_up(cluster, places)) as records:
        left = iter(replays)
        async for record in records:
            replay = next(left)
            headers = [(name, value) for name, value in original_headers(record) if name != REPLAYS]
            headers.append((REPLAYS, str(replay.number).encode()))
            where = await kafka.put(replay.topic, record.key, record.value, headers)
            for letter in (replay.letter, *replay.others):
                await _mark(kafka, letter.place)
            done(Replayed(replay, where.partition, where.offset))


async def _mark(kafka: Producer, place: Place) -> None:
    await kafka.put(place.topic, str(place).encode(), None, [(MARK, str(place.offset).encode())], place.partition)
