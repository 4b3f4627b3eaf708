"""Exports to look at: a certificate, a job that runs at once, and the run that came of it."""

from typing import Any

from tests.console.browser.conftest import Person
from tests.system.driver import JOB, Recipient, Row, eventually

DAY = {"kind": "fixed", "from": "2026-02-03T00:00:00Z", "to": "2026-02-04T00:00:00Z"}
"""A day of the generated interactions."""


async def store_certificate(person: Person, recipient: Recipient) -> None:
    """Encrypt the exports of this person's tenant for `recipient`, too."""
    await person.api("POST", "/certificates", content=recipient.pem)


async def exported(person: Person, state: str = "succeeded", **settings: Any) -> Row:
    """The run of a job with these settings, as soon as history tells of its end."""
    job = await person.api("POST", "/jobs", {**JOB, "timeframe": DAY, **settings})

    async def look() -> Row | None:
        found = await person.api("GET", "/executions", params={"job_id": job["id"], "state": state})
        return next(iter(found["items"]), None)

    run = await eventually(look, what=f"a {state} run of {job['settings']['title']!r}")
    return await person.api("GET", f"/executions/{run['run_id']}")
