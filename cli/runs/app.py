"""The commands on runs."""

import typer

from cli.runs import ordering, reading, watch

app = typer.Typer(help="Runs: how exports go and went.", no_args_is_help=True)
app.command("list", epilog="cdds runs list --job nightly --state failed --finished-from 2026-03-01")(reading.list_)
app.command(epilog="cdds runs show 1f2e3d4c")(reading.show)
app.command(epilog="cdds runs watch --job nightly")(watch.watch)
app.command(epilog="cdds runs cancel 1f2e3d4c")(ordering.cancel)
app.command(epilog="cdds runs retry 1f2e3d4c --watch")(ordering.retry)
