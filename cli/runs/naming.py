"""A run by its id, or by the beginning of it as lists show it."""

import re
from typing import Annotated, Final
from uuid import UUID

import typer

from cli.client import Client
from cli.console import Failure

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Id of a run; the beginning of a recent one's will do.")
]
_LOOKED_AT: Final = 2000


def find_run(client: Client, name: str) -> str:
    """The id of the run that is meant. Raises Failure unless it is one."""
    try:
        return str(UUID(name))
    except ValueError:
        begins = name.lower()
    if not re.fullmatch(r"[0-9a-f]{4}[0-9a-f-]*", begins):
        raise Failure(f"{name!r} is no id of a run: `cdds runs list` shows them")
    runs = client.items("/executions", first=_LOOKED_AT)
    found = [run["run_id"] for run in runs if run["run_id"].startswith(begins)]
    if len(found) == 1:
        return found[0]
    if found:
        raise Failure(f"{len(found)} runs have ids that begin with {name}: say more of it:\n" + "\n".join(found))
    raise Failure(f"none of the {_LOOKED_AT:,} newest runs has an id that begins with {name}: give the whole id")
