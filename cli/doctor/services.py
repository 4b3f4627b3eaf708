"""The five services: each answers that it is ready, and its clock is right."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

import httpx

from cli.doctor.checking import CONNECT_SECONDS, bounded
from cli.doctor.findings import Finding, failed, ok, warning
from cli.doctor.postgres import skew
from cli.installation import Installation
from deploy.local.stack import SERVICES

CHECK: Final = "services"
DATE_AGE: Final = timedelta(seconds=2)
"""An HTTP date has whole seconds, and servers renew it once a second."""
_WHAT_FAILED: Final = {
    "postgres": "PostgreSQL does not answer it",
    "consumer": "records wait and its consumer does not move",
}


async def check(installation: Installation) -> list[Finding]:
    """Ask every service whose address is known."""
    known = {name: url for name in SERVICES if (url := installation.url(name)) is not None}
    if not known:
        message = "no addresses are known here, so no service was asked"
        return [warning(CHECK, "addresses", message, "give --service NAME=URL")]
    async with httpx.AsyncClient(timeout=CONNECT_SECONDS, trust_env=False) as client:
        found = await asyncio.gather(
            *(bounded(CHECK, name, _service(client, name, url)) for name, url in known.items())
        )
    return [finding for findings in found for finding in findings]


async def _service(client: httpx.AsyncClient, name: str, url: str) -> list[Finding]:
    asked_at, started = datetime.now(UTC), time.monotonic()
    try:
        answer = await client.get(f"{url}/health/ready")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error) or "no answer in time"
        remedy = f"see that {name} runs, and its log; give --service {name}=URL if it is elsewhere"
        return [failed(CHECK, name, f"{url} does not answer: {reason}", remedy, reached=False)]
    took = timedelta(seconds=time.monotonic() - started)
    findings = [_judged(name, url, answer)]
    try:
        shown = parsedate_to_datetime(answer.headers["date"])
    except (KeyError, ValueError):
        return findings
    return [*findings, skew(name, shown, shown + DATE_AGE, asked_at, took)]


def _judged(name: str, url: str, answer: httpx.Response) -> Finding:
    if answer.is_success:
        return ok(CHECK, name, f"{url} is ready", reached=True)
    try:
        parts: dict[str, str] = answer.json()["failed"]
        reasons = ", ".join(f"{_WHAT_FAILED.get(part, part)} ({kind})" for part, kind in parts.items())
    except (ValueError, KeyError, AttributeError, TypeError):
        message = f"{url} answers {answer.status_code}, which is not an answer of {name}"
        return failed(CHECK, name, message, f"give --service {name}=URL", reached=True)
    return failed(CHECK, name, f"{url} is not ready: {reasons}", f"the log of {name} says more", reached=True)
