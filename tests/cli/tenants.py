"""What tests of commands do with a tenant of the whole system."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import httpx
import psycopg

from deploy.local.data import END, START
from deploy.local.stack import SOURCES_DATABASE, Stack
from shared.clock import utc_text
from tests.cli.exports import Told, cdds
from tests.system.driver import PATIENCE, Recipient

T = TypeVar("T")
TENANTS = 100
CONTACTS = 1000
CONTACTS_EACH = CONTACTS // TENANTS

NIGHTLY = """\
key: nightly
title: Nightly contacts
source: ucs
type: contact
schedule: {kind: daily, at: 02:00}
timeframe: {kind: last, unit: day}
"""


@dataclass
class Tenant:
    """Somebody whose commands go to the stack."""

    stack: Stack
    name: str
    recipient: Recipient

    def token(self, role: str) -> str:
        return self.stack.secrets.token(tenant=self.name, role=role, subject=f"{role}@{self.name}")

    def api(self, role: str = "admin") -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token(role)}"}
        return httpx.Client(base_url=f"{self.stack.url}/api/v1", headers=headers, timeout=30)

    def certify(self) -> "Tenant":
        """Make encrypted jobs possible; every service has to know the certificate before a run starts."""
        with self.api() as api:
            answer = api.post("/certificates", content=self.recipient.pem)
            assert answer.status_code == 201, answer.text
        return self

    def submit(self, **settings: Any) -> dict[str, Any]:
        """A job over all contacts that runs once a year, unless settings say otherwise."""
        written = {
            "title": "Contacts", "source": "ucs", "type": "contact",
            "schedule": {"kind": "cron", "expression": "0 0 1 1 *"},
            "timeframe": {"kind": "fixed", "from": utc_text(START), "to": utc_text(END)},
            "retry": {"attempts": 10, "backoff": "PT0.5S"}, **settings,
        }  # fmt: skip
        with self.api() as api:
            answer = api.post("/jobs", json=written)
            assert answer.status_code == 201, answer.text
            return answer.json()

    @contextmanager
    def source_locked(self) -> Iterator[None]:
        """Nobody can read the contacts, so that no run ends."""
        with psycopg.connect(self.stack.dsn(SOURCES_DATABASE)) as connection:
            connection.execute("LOCK TABLE ucs.contacts IN ACCESS EXCLUSIVE MODE")
            yield
            connection.rollback()

    def job(self, job_id: str) -> dict[str, Any]:
        with self.api() as api:
            return api.get(f"/jobs/{job_id}").json()


def eventually(look: Callable[[], T | None], *, within: timedelta = PATIENCE, what: str = "the condition") -> T:
    """What `look` gives as soon as it is neither None nor false; fails after `within`."""
    deadline = time.monotonic() + within.total_seconds()
    while True:
        if found := look():
            return found
        assert time.monotonic() < deadline, f"{what}: not within {within.total_seconds():g} s"
        time.sleep(0.05)


def json_of(*arguments: Any) -> Any:
    """What a command that succeeds says to programs."""
    told = cdds(*arguments, "--output", "json")
    assert told.code == 0, told
    return told.json


def fails(told: Told, code: int, *said: str) -> None:
    """The command ended with this code, and said why on standard error alone."""
    assert (told.code, told.out) == (code, ""), told
    for part in said:
        assert part in told.err
