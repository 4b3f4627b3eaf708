"""`cdds topics ensure`: the project's topics as they shall be, and what is different about those that exist."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

import typer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import for_code

from cli.acls import acls
from cli.broker import administrator, reaching
from cli.console import Exit, Failure, Output, OutputOption, out, print_json, print_table
from cli.installation import STATEFUL, DataOption, Installation, KafkaOption, cluster_of
from shared.cluster import Cluster
from shared.messaging import TopicSettings, create_topics, topic_settings

app = typer.Typer(help="The topics that events travel on, and who may do what with them.", no_args_is_help=True)
app.command()(acls)

PARTITIONS: Final = "partitions"
REPLICATION: Final = "replication"
_SET_FOR_TOPIC: Final = 1
"""Where Kafka says that a value comes from: the topic itself, rather than a default of the broker."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What is not as it shall be about a topic that exists; `remedy` says what mends it."""

    topic: str
    setting: str
    found: str
    wanted: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """What Kafka has beside what it shall have."""

    missing: Sequence[TopicSettings]
    differences: Sequence[Difference]
    own: Mapping[str, Mapping[str, str]]
    """What was set for each topic, in Kafka's names."""


@app.command()
def ensure(
    kafka: KafkaOption = None,
    partitions: Annotated[
        int | None, typer.Option(min=1, help="Of each topic; as the settings say, or 6, otherwise.")
    ] = None,
    replication: Annotated[
        int | None, typer.Option(min=1, help="Replicas of each topic; as the settings say, or 1, otherwise.")
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Mend what is different about existing topics; partitions are added, never removed."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    data: DataOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Create the topics that are missing, and say what is different about the others.

    Exit code 1 when something stays different.
    """
    installation = Installation.find(data, kafka=kafka)
    cluster = cluster_of(installation)
    wanted = topic_settings(
        partitions or _set(installation, "kafka_partitions", 6),
        replication or _set(installation, "kafka_replication", 1),
    )
    found, left = asyncio.run(reaching(cluster, _ensure(cluster, wanted, repair=repair, dry_run=dry_run)))
    _print(found, left, wanted=len(wanted), dry_run=dry_run, output=output)
    if left:
        raise typer.Exit(Exit.FAILED)


def _set(installation: Installation, name: str, otherwise: int) -> int:
    """What the settings of the services say; all of them make topics, the first one that starts."""
    found = next((text for service in STATEFUL if (text := installation.setting(service, name))), None)
    if found is None:
        return otherwise
    if not found.isdecimal() or int(found) < 1:
        raise Failure(f"CDDS_…_{name.upper()} is {found!r}, not a number from 1 on: correct it")
    return int(found)


async def _ensure(
    cluster: Cluster, wanted: Sequence[TopicSettings], *, repair: bool, dry_run: bool
) -> tuple[Comparison, list[Difference]]:
    """What was found, and the differences that stay."""
    async with administrator(cluster) as admin:
        found = await compare(admin, wanted)
        if not dry_run:
            await create_topics(admin, found.missing)
        mendable = [one for one in found.differences if one.setting != REPLICATION] if repair else []
        if not dry_run:
            await _mend(admin, wanted, found, mendable)
        return found, [one for one in found.differences if one not in mendable]


async def compare(admin: AIOKafkaAdminClient, wanted: Sequence[TopicSettings]) -> Comparison:
    """How the topics differ from `wanted`; more partitions and replicas than that are no difference."""
    existing = set(await admin.list_topics())
    present = [topic for topic in wanted if topic.name in existing]
    missing = [topic for topic in wanted if topic.name not in existing]
    if not present:
        return Comparison(missing, [], {})
    described = {topic["topic"]: topic for topic in await admin.describe_topics([topic.name for topic in present])}
    configs, own = await _configs(admin, [topic.name for topic in present])
    differences: list[Difference] = []
    for topic in present:
        counted: list[dict[str, Any]] = described[topic.name]["partitions"]
        if len(counted) < topic.partitions:
            remedy = "cdds topics ensure --repair adds partitions"
            differences.append(Difference(topic.name, PARTITIONS, str(len(counted)), str(topic.partitions), remedy))
        replicas = min((len(partition["replicas"]) for partition in counted), default=0)
        if replicas < topic.replication:
            remedy = "kafka-reassign-partitions.sh of Kafka moves and adds replicas"
            differences.append(Difference(topic.name, REPLICATION, str(replicas), str(topic.replication), remedy))
        for name, value in topic.configs().items():
            if (has := configs[topic.name].get(name, "nothing")) != value:
                remedy = "cdds topics ensure --repair sets it"
                differences.append(Difference(topic.name, name, has, value, remedy))
    return Comparison(missing, differences, own)


async def _configs(
    admin: AIOKafkaAdminClient, topics: Sequence[str]
) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
    """What holds for each topic, and the part of it that was set for the topic itself."""
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in topics]
    holds: dict[str, dict[str, str]] = {name: {} for name in topics}
    own: dict[str, dict[str, str]] = {name: {} for name in topics}
    answers: list[Any] = list(await admin.describe_configs(asked))
    for answer in answers:
        for code, message, _, topic, entries in answer.resources:
            if code:
                raise for_code(code)(f"{topic}: {message}")
            for name, value, _, source, *_ in entries:
                holds[topic][name] = value or ""
                if source == _SET_FOR_TOPIC:
                    own[topic][name] = value or ""
    return holds, own


async def _mend(
    admin: AIOKafkaAdminClient, wanted: Sequence[TopicSettings], found: Comparison, differences: Sequence[Difference]
) -> None:
    settings = {topic.name: topic for topic in wanted}
    grow = {one.topic: settings[one.topic].partitions for one in differences if one.setting == PARTITIONS}
    if grow:
        answer: Any = await admin.create_partitions({name: NewPartitions(count) for name, count in grow.items()})
        for topic, code, message in answer.topic_errors:
            if code:
                raise for_code(code)(f"{topic}: {message}")
    altered = dict.fromkeys(one.topic for one in differences if one.setting != PARTITIONS)
    if altered:
        # Kafka puts what it is told in the place of all that was set for the topic.
        resources = [
            ConfigResource(ConfigResourceType.TOPIC, name, {**found.own[name], **settings[name].configs()})
            for name in altered
        ]
        answers: list[Any] = list(await admin.alter_configs(resources))
        for altering in answers:
            for code, message, _, topic in altering.resources:
                if code:
                    raise for_code(code)(f"{topic}: {message}")


def _print(found: Comparison, left: Sequence[Difference], *, wanted: int, dry_run: bool, output: Output) -> None:
    mended = [one for one in found.differences if one not in left]
    if output == Output.JSON:
        print_json(
            {
                "dry_run": dry_run,
                "created": [topic.name for topic in found.missing],
                "mended": [asdict(one) for one in mended],
                "different": [asdict(one) for one in left],
            }
        )
        return
    would = "would be " if dry_run else ""
    for topic in found.missing:
        out.print(
            f"{topic.name}: {would}created, {topic.partitions} partitions, {topic.replication} replicas,"
            f" kept {topic.retention.days} days",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    for one in mended:
        out.print(f"{one.topic}: {one.setting} {would}set from {one.found} to {one.wanted}", highlight=False)
    if any(one.setting == PARTITIONS for one in mended):
        out.print(
            "Keys move to other partitions when some are added: until what was written before is consumed, an event may"
            " be handled ahead of older ones of its key. Consumers take the newer version then.",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    if left:
        rows = [(one.topic, one.setting, one.found, one.wanted, one.remedy) for one in left]
        print_table("topic", "setting", "found", "wanted", "what mends it", rows=rows)
    as_they_shall_be = wanted - len(found.missing) - len({one.topic for one in found.differences})
    out.print(f"{as_they_shall_be} of {wanted} topics were as they shall be.", highlight=False)
