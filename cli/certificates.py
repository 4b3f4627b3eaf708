"""`cdds certificates`: for whom exports are encrypted."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from cli.artifacts.failures import one_line
from cli.client import Client
from cli.connection import Connection, connected
from cli.console import Failure, Output, OutputOption, confirm, moment_text, out, print_json, print_table, say, shown

app = typer.Typer(help="Certificates: for whom exports are encrypted.", no_args_is_help=True)


@app.command("list", epilog="cdds certificates list")
@connected
def list_(connection: Connection, output: OutputOption = Output.TABLE) -> None:
    """Certificates of the tenant, the one that lasts longest first."""
    with connection.open("viewer") as client:
        found = list(client.items("/certificates"))
    if output is Output.JSON:
        print_json(found)
        return
    print_table(
        "Fingerprint", "Subject", "Valid from (UTC)", "until", "",
        rows=[
            [
                one["fingerprint"][:16] if out.is_terminal else one["fingerprint"], shown(one["subject"]),
                moment_text(one["not_before"])[:-3], moment_text(one["not_after"])[:-3],
                "" if one["valid"] else "[red]not valid[/]",
            ]
            for one in found
        ],
    )  # fmt: skip
    _warn(warning for one in found for warning in one["warnings"])


@app.command(epilog="cdds certificates add recipient.pem")
@connected
def add(
    connection: Connection,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An X.509 RSA certificate, PEM or DER.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Encrypt exports for the owner of a certificate, too."""
    with one_line():
        content = file.read_bytes()
    if b"PRIVATE KEY" in content:
        raise Failure(f"{file} has a private key in it, which should not leave its owner: give the certificate alone")
    with connection.open("admin") as client:
        added = client.post("/certificates", content)
    if output is Output.JSON:
        print_json(added)
        return
    say(f"Exports are encrypted for {shown(added['subject'])} from now on ({added['fingerprint']}).")
    _warn(added["warnings"])


@app.command(epilog="cdds certificates remove 2d3462b2be8444e0 --yes")
@connected
def remove(
    connection: Connection,
    certificate: Annotated[
        str, typer.Argument(metavar="FINGERPRINT", help="Of the certificate; the beginning will do.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Encrypt no more exports for a certificate; it may be added again."""
    with connection.open("admin") as client:
        fingerprint = _fingerprint(client, certificate)
        confirm(f"Encrypt no more exports for {fingerprint}?", yes=yes)
        removed = client.delete(f"/certificates/{fingerprint}")
    if output is Output.JSON:
        print_json({"fingerprint": fingerprint, "warnings": [], **removed})
        return
    say(f"Exports are no more encrypted for {fingerprint}.")
    _warn(removed.get("warnings", ()))


def _fingerprint(client: Client, name: str) -> str:
    begins = name.lower().replace(":", "")
    if not re.fullmatch(r"[0-9a-f]{4,64}", begins):
        raise Failure(f"{name} is no fingerprint: `cdds certificates list` shows them")
    found = [one["fingerprint"] for one in client.items("/certificates") if one["fingerprint"].startswith(begins)]
    if len(found) != 1:
        raise Failure(f"{len(found)} certificates have fingerprints that begin with {name}: `cdds certificates list`")
    return found[0]


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        out.print(f"[bold yellow]![/] {shown(warning)}", highlight=False, soft_wrap=True)
