"""`make bench-history`: how fast history follows, how far behind it is, and how fast it answers among millions of runs.

Everything runs on this machine: PostgreSQL with its default durability, Apache Kafka, the service as production starts
it, and each of the other roles in a process of its own.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, TypeAlias

import typer
import uvloop

from bench import history_catchup, history_lag, history_lists, history_profile
from bench.harness import print_result, print_table
from bench.history_readers import cost_of_readers
from bench.history_service import PARTITIONS, SETTINGS, running
from deploy.local import kafka
from deploy.local.kafka import ApacheKafka, Broker
from deploy.local.postgres import EmbeddedPostgres
from deploy.local.secrets import Secrets
from shared.cluster import Cluster
from shared.messaging import ensure_topics

Measuring: TypeAlias = Callable[[Path, EmbeddedPostgres, Broker], Awaitable[Mapping[str, float]]]


class Section(StrEnum):
    """What can be measured alone."""

    CATCHUP = "catchup"
    LAG = "lag"
    LISTS = "lists"
    READERS = "readers"


def main(
    only: Annotated[Section | None, typer.Option(help="Measure this alone.")] = None,
    events: Annotated[int, typer.Option(help="How many wait in the topics.")] = 400_000,
    rounds: Annotated[int, typer.Option(help="Catching up is the median of so many.")] = 3,
    rate: Annotated[int, typer.Option(help="Events a second while the lag is measured.")] = 2000,
    seconds: Annotated[int, typer.Option(help="How long the lag is measured, after 5 s of warming up.")] = 20,
    executions: Annotated[int, typer.Option(help="How many there are when lists are asked for.")] = 10_000_000,
    list_rounds: Annotated[int, typer.Option(help="How often each kind of list is asked for.")] = 20,
    keep: Annotated[
        Path | None, typer.Option(help="PostgreSQL's folder, to list the executions that are in it once more.")
    ] = None,
    readers: Annotated[int, typer.Option(help="How many follow the stream at once.")] = 500,
    profile: Annotated[
        bool, typer.Option("--profile", help="Only say where the time of projecting `events` goes, without Kafka.")
    ] = False,
) -> None:
    """Measure history on PostgreSQL and Apache Kafka started for it."""
    if profile:
        uvloop.run(_profile(events))
        return
    sections: dict[Section, Measuring] = {
        Section.CATCHUP: partial(history_catchup.measure, count=events, rounds=rounds),
        Section.LAG: partial(history_lag.measure, rate=rate, seconds=seconds),
        Section.LISTS: partial(history_lists.measure, executions=executions, rounds=list_rounds, kept=keep is not None),
        Section.READERS: partial(_readers, count=readers),
    }
    uvloop.run(_main(sections if only is None else {only: sections[only]}, keep))


async def _main(sections: Mapping[Section, Measuring], keep: Path | None) -> None:
    if missing := kafka.missing_for_apache():
        raise SystemExit(missing)
    # The coordinator of a new broker takes a moment, and is asked again.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    result: dict[str, float] = {}
    with TemporaryDirectory(prefix="cdds-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        async with (
            EmbeddedPostgres(keep or folder / "postgres", settings=SETTINGS) as postgres,
            ApacheKafka(folder / "kafka") as broker,
        ):
            await ensure_topics(Cluster(broker.bootstrap), PARTITIONS, 1)
            for measure in sections.values():
                result |= await measure(folder, postgres, broker)
    print_result(result)


async def _profile(events: int) -> None:
    with TemporaryDirectory(prefix="cdds-bench-", ignore_cleanup_errors=True) as name:
        async with EmbeddedPostgres(Path(name) / "postgres", settings=SETTINGS) as postgres:
            print_result(await history_profile.measure(postgres, events))


async def _readers(folder: Path, postgres: EmbeddedPostgres, broker: Broker, count: int) -> Mapping[str, float]:
    """Let a new process of the service have `count` readers of its stream."""
    secrets = Secrets(folder / "secrets")
    await postgres.create_database("readers")
    async with running(postgres, "readers", broker.bootstrap, secrets) as service:
        await service.until_ready()
        token = secrets.token(tenant="acme", role="admin", subject="bench")
        cost = await cost_of_readers(service.url, service.pid, token, count)
    await postgres.drop_database("readers")
    print_table(
        "Readers of the stream",
        ("", "KiB each", "the service's MiB with them"),
        [(f"{cost.readers:,}", f"{cost.kib_each:.1f}", f"{cost.rss_mib:.0f}")],
    )
    return {"sse_kib_per_reader": cost.kib_each, "sse_rss_mib": cost.rss_mib}


if __name__ == "__main__":
    typer.run(main)
