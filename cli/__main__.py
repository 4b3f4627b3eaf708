"""`cdds`: everything a person does from a terminal."""

import sys
from typing import Final, NoReturn

import typer

from cli.console import Failure, err, shown
from cli.lazy import MARKUP, Lazy, LazyGroup

COMMANDS: Final = {
    "up": Lazy("cli.stack:up", "Start PostgreSQL, Kafka and the five services; Ctrl-C stops everything in order."),
    "down": Lazy("cli.stack:down", "Stop the stack that runs in the background."),
    "token": Lazy(
        "cli.stack:token",
        "Print an access token for the local stack's HTTP API, or for services that believe the key that is given.",
    ),
    "migrate": Lazy(
        "cli.databases:migrate",
        "Apply the migrations of every service whose CDDS_…_POSTGRES is set, as its owner; services may be running.",
    ),
    "restored": Lazy(
        "cli.restored:restored",
        "Let Kafka forget what PostgreSQL has, after it was restored to an earlier moment and before services start.",
    ),
    "republish": Lazy(
        "cli.databases:republish",
        "Publish kept events once more, after a broker lost records; consumers change nothing they know.",
    ),
    "demo": Lazy(
        "cli.demo:demo",
        "Export generated interactions and attachments, decrypt with stock tools, compare every row with the database.",
    ),
    "apply": Lazy(
        "cli.apply.commands:apply", "Create and change jobs until the service has those of the files.",
        "cdds apply -f jobs.yaml -f jobs.d/ --plan",
    ),
    "export": Lazy(
        "cli.apply.commands:export",
        "Write the jobs that have keys as a file for cdds apply, which changes nothing then.",
        "cdds export > jobs.yaml",
    ),
    "doctor": Lazy(
        "cli.doctor.commands:doctor", "Check everything that CDDS needs, and say what to do about what is wrong."
    ),
    "jobs": Lazy("cli.jobs.app:app", "Jobs: what is exported, when, and how."),
    "runs": Lazy("cli.runs.app:app", "Runs: how exports go and went."),
    "certificates": Lazy("cli.certificates:app", "Certificates: for whom exports are encrypted."),
    "artifacts": Lazy(
        "cli.artifacts.app:app", "Exported files: list and fetch them, prove that they are complete, decrypt them."
    ),
    "history": Lazy("cli.history:app", "What happened, as history tells it."),
    "dead-letters": Lazy(
        "cli.dead_letters.commands:app", "Records that a service could not apply: why, and once more."
    ),
    "topics": Lazy("cli.topics:app", "The topics that events travel on, and who may do what with them."),
}  # fmt: skip


class _Commands(LazyGroup):
    lazy = COMMANDS


app = typer.Typer(
    name="cdds",
    help="Export contact-centre data on a schedule, encrypted and verifiable.",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=MARKUP,
)
app.callback()(lambda: None)


def main() -> NoReturn:
    """Run the command; a Failure becomes one line and its exit code."""
    try:
        app()
    except Failure as failure:
        err.print(f"[bold red]cdds:[/] {shown(failure)}", highlight=False, soft_wrap=True)
        sys.exit(failure.code)
    sys.exit(0)


if __name__ == "__main__":
    main()
