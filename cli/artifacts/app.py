"""`cdds artifacts`: what runs have left."""

import typer

from cli.artifacts import listing
from cli.artifacts.decrypt import decrypt
from cli.artifacts.fetch import fetch
from cli.artifacts.verify import verify

app = typer.Typer(
    help="Exported files: list and fetch them, prove that they are complete, decrypt them.",
    no_args_is_help=True,
)
app.command("list", epilog="cdds artifacts list --job nightly --available")(listing.list_)
app.command(epilog="cdds artifacts download 1f2e3d4c --into received/")(listing.download)
app.command(epilog="cdds artifacts delete 1f2e3d4c --yes")(listing.delete)
app.command()(fetch)
app.command()(verify)
app.command()(decrypt)
