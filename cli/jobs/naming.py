"""A job by what a person calls it: its id or the beginning of it, its key, or how its title begins."""

import re
from collections.abc import Sequence
from typing import Annotated, Final
from uuid import UUID

import typer

from cli.client import Client, Document
from cli.console import Failure, short

JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="Id, key, or the beginning of the title; the beginning of an id will do.")
]
_SHOWN: Final = 10


def find_job(client: Client, name: str) -> Document:
    """The job that is called so. Raises Failure unless it is one."""
    try:
        return client.json(f"/jobs/{UUID(name)}")
    except ValueError:
        found = named(list(client.items("/jobs", sort="title")), name)
    if not found:
        raise Failure(f"there is no job {name!r}: `cdds jobs list` shows them all")
    if len(found) > 1:
        raise Failure(f"{name!r} may be any of {len(found)} jobs, so say more, or give its id:\n{_candidates(found)}")
    # Lists may be a moment behind; what is changed next is read by its id.
    return client.json(f"/jobs/{found[0]['id']}")


def job_id(client: Client, name: str) -> str:
    """The id of the job that is called so, which may be deleted when the name is an id."""
    try:
        return str(UUID(name))
    except ValueError:
        return find_job(client, name)["id"]


def named(jobs: Sequence[Document], name: str) -> Sequence[Document]:
    """Those that a name may mean: a key and a whole title count more than the beginning of a title or an id."""
    folded = name.casefold()

    def title(job: Document) -> str:
        return job["settings"]["title"].casefold()

    for exactly in (
        [job for job in jobs if job["settings"]["key"] == name],
        [job for job in jobs if title(job) == folded],
    ):
        if exactly:
            return exactly
    of_an_id = bool(re.fullmatch(r"[0-9a-f]{4}[0-9a-f-]*", folded))
    return [job for job in jobs if title(job).startswith(folded) or (of_an_id and job["id"].startswith(folded))]


def _candidates(found: Sequence[Document]) -> str:
    lines = [
        f"  {short(job['id'])}  {job['settings']['title']}"
        + (f"  (key {job['settings']['key']})" if job["settings"]["key"] else "")
        for job in found[:_SHOWN]
    ]
    return "\n".join(lines + (["  …"] if len(found) > _SHOWN else []))
