"""The commands on jobs."""

import typer

from cli.jobs import backfills, changing, reading, running

app = typer.Typer(help="Jobs: what is exported, when, and how.", no_args_is_help=True)
app.command("list", epilog="cdds jobs list --source ucs --status failed --sort -latest_started_at")(reading.list_)
app.command(epilog="cdds jobs show nightly --settings > nightly.yaml")(reading.show)
app.command(epilog="cdds jobs preview nightly.yaml --zone Europe/Berlin")(reading.preview)
app.command(epilog="cdds jobs create nightly.yaml")(changing.create)
app.command(epilog="cdds jobs edit nightly --set schedule.at=03:30 --set retry.attempts=5")(changing.edit)
app.command(epilog="cdds jobs clone nightly --set key=weekly --set title=Weekly > weekly.yaml")(changing.clone)
app.command(epilog="cdds jobs delete nightly --yes")(changing.delete)
app.command(epilog="cdds jobs suspend nightly")(running.suspend)
app.command(epilog="cdds jobs resume nightly --dry-run --missed all")(running.resume)
app.command(epilog="cdds jobs run nightly --watch")(running.run)
app.command(epilog="cdds jobs backfill nightly --from 2026-01-01 --to 2026-02-01 --dry-run")(backfills.backfill)
app.command(epilog="cdds jobs backfills nightly")(backfills.backfills)
app.command("cancel-backfill", epilog="cdds jobs cancel-backfill nightly")(backfills.cancel_backfill)
