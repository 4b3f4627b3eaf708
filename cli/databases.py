"""`cdds migrate` and `cdds republish`: what is done in the databases of the services, with the rights of their DSNs."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any, TypeVar

import asyncpg
import structlog
import typer

from cli.console import Exit, Failure, Output, OutputOption, ago_option, out, print_json
from cli.doctor.checking import address, explained
from cli.installation import STATEFUL, DataOption, Installation
from deploy.local.stack import PUBLISHERS
from shared import connecting, migration, outbox
from shared.database import DirectConnection, is_outage

T = TypeVar("T")

PostgresOption = Annotated[
    str | None,
    typer.Option("--postgres", help="A DSN for all schemas; those of the settings, or the local stack's, otherwise."),
]


def migrate(postgres: PostgresOption = None, data: DataOption = None, output: OutputOption = Output.TABLE) -> None:
    """Apply the migrations of every service whose CDDS_…_POSTGRES is set, as its owner; services may be running.

    What is applied already is left alone, so it may be repeated, and run twice at once.
    """
    log_to_standard_error()
    installation = Installation.find(data, postgres)
    dsns = dsns_of(installation)
    applied: dict[str, list[str]] = {}
    for service, dsn in dsns.items():
        try:
            applied[service] = run_in(dsn, migration.migrate(dsn, service, outbox=service in PUBLISHERS))
        except migration.MigrationChanged as error:
            raise Failure(f"{error}: install the version of CDDS that applied it, or a later one") from error
    if output == Output.JSON:
        print_json({"applied": applied})
        return
    for service, names in applied.items():
        out.print(f"{service}: {', '.join(names) or 'nothing'} applied", highlight=False, soft_wrap=True)


def republish(
    postgres: PostgresOption = None,
    since: Annotated[datetime | None, ago_option("Only what was published after:")] = None,
    data: DataOption = None,
) -> None:
    """Publish kept events once more, after a broker lost records; consumers change nothing they know."""
    dsns = dsns_of(Installation.find(data, postgres))
    count = sum(run_in(dsn, make_due(dsn, owner, since)) for owner, dsn in dsns.items() if owner in PUBLISHERS)
    out.print(f"{count} events are due again; the services publish them in their old order.")


def log_to_standard_error() -> None:
    """Keep what services log, when a command does their work, out of what it answers."""
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))


def dsns_of(installation: Installation) -> Mapping[str, str]:
    """Where the schema of each service is; raises Failure when none is known."""
    found = {service: dsn for service in STATEFUL if (dsn := installation.dsn(service)) is not None}
    if not found:
        message = "no stack is running here and no CDDS_…_POSTGRES is set: start one, or give --postgres"
        raise Failure(message, Exit.UNREACHABLE)
    return found


def run_in(dsn: str, work: Coroutine[Any, Any, T]) -> T:
    """Do it in a database; raises Failure, which quotes no DSN."""
    try:
        return asyncio.run(work)
    except connecting.NoTrust as error:
        raise Failure(f"{address(dsn)}: {error}", Exit.UNREACHABLE) from error
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        if is_outage(error) or isinstance(error, ValueError | asyncpg.InvalidAuthorizationSpecificationError):
            raise Failure(f"{address(dsn)} is not reached: {explained(error)}", Exit.UNREACHABLE) from error
        raise Failure(f"{address(dsn)}: {explained(error)}") from error


@asynccontextmanager
async def acting_as_worker(dsn: str, service: str) -> AsyncGenerator[DirectConnection]:
    """A connection with the rights that the service has, whether its DSN is the owner's or not."""
    connection = await connecting.connect(
        dsn, server_settings={"role": f"{service}_worker", "application_name": "cdds", "timezone": "UTC"}
    )
    try:
        yield connection
    finally:
        await connection.close()


async def make_due(dsn: str, owner: str, since: datetime | None = None) -> int:
    """Make the events of `owner` due again that were published after `since`, or all; says how many."""
    async with acting_as_worker(dsn, owner) as connection:
        return await outbox.republish(connection, owner, since)
