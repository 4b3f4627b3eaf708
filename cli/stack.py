"""`cdds up`, `down` and `token`: the local stack."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from cli.console import Failure, out
from deploy.local import data as demo_data
from deploy.local.processes import StartFailed
from deploy.local.secrets import ISSUER, Secrets, private_key
from deploy.local.stack import SERVICES, SOURCES_DATABASE, AlreadyRunning, Options, Stack, running
from shared import auth

Data = Annotated[Path, typer.Option("--data", help="The stack's folder; everything it keeps is in there.")]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key", envvar="CDDS_TOKEN_KEY", help="Sign with this private key (Ed25519, PEM)."),
]
IssuerOption = Annotated[
    str, typer.Option("--issuer", envvar="CDDS_TOKEN_ISSUER", help="Whose token it is, with --key.")
]
DEMO_ROWS = 100_000
COLOURS = ("cyan", "magenta", "green", "yellow", "blue")
START_PATIENCE_SECONDS = 180


def up(
    data: Data = Path(".cdds"),
    kafka: Annotated[str, typer.Option(help="embedded, apache, or the HOST:PORT of one that exists.")] = "embedded",
    postgres: Annotated[
        str | None, typer.Option(help="DSN of a PostgreSQL that exists, instead of the embedded one.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port of the console; a free one otherwise.")] = None,
    demo_data: Annotated[bool, typer.Option("--demo-data", help="Fill the sources once, if they are empty.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Keep running in the background; `cdds down` stops it.")
    ] = False,
) -> None:
    """Start PostgreSQL, Kafka and the five services; Ctrl-C stops everything in order."""
    if detach:
        _start_detached(data)
        return
    options = Options(data=data, kafka=kafka, postgres=postgres, console_port=port)
    try:
        asyncio.run(_run(options, fill=demo_data))
    except (AlreadyRunning, StartFailed) as error:
        raise Failure(str(error)) from error


def down(data: Data = Path(".cdds")) -> None:
    """Stop the stack that runs in the background."""
    found = running(data)
    if found is None:
        out.print("No stack is running here.")
        return
    os.kill(found["pid"], signal.SIGTERM)
    while running(data):
        time.sleep(0.1)
    out.print("Stopped.")


def token(
    data: Data = Path(".cdds"),
    tenant: Annotated[str, typer.Option(help="Whose data it opens.")] = "acme",
    role: Annotated[str, typer.Option(help="viewer, operator or admin.")] = "admin",
    days: Annotated[int, typer.Option(min=1, max=365)] = 7,
    key: KeyOption = None,
    issuer: IssuerOption = ISSUER,
) -> None:
    """Print an access token for the local stack's HTTP API, or for services that believe the key that is given."""
    if role not in ("viewer", "operator", "admin"):
        raise Failure(f"there is no role {role!r}: use viewer, operator or admin")
    subject, lifetime = f"{role}@{tenant}", timedelta(days=days)
    if key is not None:
        typer.echo(issued(key, issuer, tenant=tenant, role=role, subject=subject, lifetime=lifetime))
    else:
        secrets = Secrets(data / "secrets")
        typer.echo(secrets.token(tenant=tenant, role=role, subject=subject, lifetime=lifetime))


def issued(file: Path, issuer: str, *, tenant: str, role: str, subject: str, lifetime: timedelta) -> str:
    """An access token signed with the private key in a file. Raises Failure."""
    try:
        key = private_key(file)
    except (OSError, ValueError, TypeError) as error:
        raise Failure(f"{file} is no Ed25519 private key in PEM: {error}") from error
    return auth.issue(key, issuer, subject=subject, tenant=tenant, role=role, lifetime=lifetime)


async def fill_sources(dsn: str, rows: int) -> None:
    """Load the demo data: `rows` interactions each for UCS and Contact History, their contacts, and the flights."""
    await demo_data.create_schema(dsn)
    await demo_data.load_interactions(dsn, "ucs", rows=rows)
    await demo_data.load_contacts(dsn, "ucs", rows=rows // 4)
    await demo_data.load_interactions(dsn, "contact_history", rows=rows // 10, seed=2)
    await demo_data.load_contacts(dsn, "contact_history", rows=rows // 40, seed=2)
    await demo_data.load_flights(dsn)


async def _run(options: Options, *, fill: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    colours: dict[str, str] = dict(zip(SERVICES, COLOURS, strict=True))

    def prefixed(name: str, line: str) -> None:
        out.print(f"[{colours.get(name, 'white')}]{name:9}[/] │ {escape(line)}", highlight=False, soft_wrap=True)

    async with Stack(options, output=prefixed) as stack:
        filled = options.data / "demo-data"
        if fill and not filled.exists():
            out.print(f"Loading demo data ({DEMO_ROWS:,} interactions, contacts, flights) …")
            await fill_sources(stack.dsn(SOURCES_DATABASE), DEMO_ROWS)
            filled.touch()
        _print_addresses(stack.describe(), options.data)
        await stop.wait()
        out.print("Stopping …")


def _start_detached(data: Path) -> None:
    found = running(data)
    if found is None:
        log = data / "logs" / "stack.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "cli", *(part for part in sys.argv[1:] if part != "--detach")]
        with log.open("a") as output:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        deadline = time.monotonic() + START_PATIENCE_SECONDS
        while (found := running(data, child.pid)) is None:
            if child.poll() is not None or time.monotonic() > deadline:
                raise Failure(f"the stack did not start; {log} says why")
            time.sleep(0.2)
    _print_addresses(found, data)


def _print_addresses(described: dict[str, Any], data: Path) -> None:
    admin = Secrets(data / "secrets").token(tenant="acme", role="admin", subject="admin@acme")
    out.print(f"\n[bold]CDDS is up[/]   {described['url']}   API: {described['url']}/api/v1", highlight=False)
    for name, service in described["services"].items():
        out.print(f"  {name:9} {service['url']}/docs", highlight=False)
    out.print(f"  kafka     {described['kafka']}\n  postgres  {described['postgres']}", highlight=False)
    out.print("\nA token (tenant acme, role admin, 7 days; `cdds token` makes others):")
    typer.echo(admin)
    out.print("\nThe console, with this token filled in (what follows the # is not sent anywhere):")
    typer.echo(f"{described['url']}/sign-in#{admin}")
