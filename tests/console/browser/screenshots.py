"""`make screenshots`: every page of the console in both themes, on a laptop and on a phone."""

import asyncio
import shutil
import sys
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer
from playwright.async_api import Page, async_playwright

from cli.stack import fill_sources
from deploy.local.data import START
from deploy.local.stack import SOURCES_DATABASE, Options, Stack
from shared.clock import utc_text
from tests.console.browser import lab
from tests.console.browser.conftest import People, Person
from tests.system.driver import Recipient, eventually

ROWS = 30_000
LOOKS = [(theme, width) for width in (1440, 390) for theme in ("light", "dark")]
JOBS: list[dict[str, Any]] = [
    {"title": "Voice and chat, every four hours", "source": "ucs", "type": "interaction",
     "media_types": ["voice", "chat"], "schedule": {"kind": "hourly", "every": 4}, "start": "immediately",
     "timeframe": {"kind": "last", "count": 4, "unit": "hour"}},
    {"title": "Contacts since the last night", "source": "contact_history", "type": "contact",
     "schedule": {"kind": "daily", "at": "02:30"}, "start": "immediately",
     "timeframe": {"kind": "since_last_run", "from": utc_text(START)},
     "labels": {"team": "analytics"}},
    {"title": "Everything, once", "source": "ucs", "type": "interaction", "schedule": {"kind": "once"},
     "start": "immediately", "timeframe": {"kind": "all"}, "split_bytes": 4 * 1024 * 1024},
    {"title": "Interactions of the day before", "source": "ucs", "type": "interaction",
     "schedule": {"kind": "daily", "at": "01:00"}, "timeframe": {"kind": "last", "unit": "day"}},
    {"title": "Nightly report with a mistake in its view", "source": "lab", "type": "broken",
     "schedule": {"kind": "daily", "at": "03:00"}, "start": "immediately", "timeframe": {"kind": "all"},
     "retry": {"attempts": 1, "backoff": "PT1S"}},
    {"title": "Recordings, monthly", "source": "lab", "type": "slow", "schedule": {"kind": "monthly", "day": "last",
     "at": "04:00"}, "start": None, "timeframe": {"kind": "all"}, "split_bytes": 65536},
]  # fmt: skip


async def prepare(admin: Person) -> tuple[str, dict[str, str]]:
    """Jobs of every kind and their first exports; the job whose runs take a while, and the addresses of all pages."""
    await admin.api("POST", "/certificates", content=Recipient("data-team").pem)
    jobs = [await admin.api("POST", "/jobs", settings) for settings in JOBS]

    async def ended() -> bool:
        runs = (await admin.api("GET", "/executions"))["items"]
        return len(runs) >= 4 and all(run["state"] in ("succeeded", "failed") for run in runs)

    await eventually(ended, what="the first exports")
    daily, slow = jobs[3]["id"], jobs[5]["id"]
    interval = {"from": utc_text(START), "to": utc_text(START + timedelta(days=5))}
    await admin.api("POST", f"/jobs/{daily}/backfill", {**interval, "max_parallel": 4})

    async def filled() -> bool:
        runs = (await admin.api("GET", f"/executions?job_id={daily}&state=succeeded"))["items"]
        return len(runs) >= 4

    await eventually(filled, what="the backfill")
    failed = (await admin.api("GET", "/executions?state=failed"))["items"][0]["run_id"]
    succeeded = (await admin.api("GET", "/executions?state=succeeded&text=Everything"))["items"][0]["run_id"]
    return slow, {
        "jobs": "/jobs",
        "overview": "/",
        "editor": f"/jobs/{daily}/edit",
        "history": "/history",
        "run": f"/history/{succeeded}",
        "failed-run": f"/history/{failed}",
        "coverage": f"/history/coverage/{daily}?month={START:%Y-%m}",
        "slots": "/history/slots",
        "artifacts": "/artifacts",
        "preferences": "/preferences",
    }


async def take(into: Path) -> None:
    """Start a stack, use it, and photograph it."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or sys.exit("there is no Chromium on the PATH")
    into.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as exits:
        folder = Path(exits.enter_context(TemporaryDirectory(prefix="cdds-screenshots-", ignore_cleanup_errors=True)))
        sources = lab.sources(folder)
        stack = await exits.enter_async_context(Stack(Options(data=folder / "data", sources=sources)))
        await fill_sources(stack.dsn(SOURCES_DATABASE), ROWS)
        await lab.build(stack.dsn(SOURCES_DATABASE))
        playwright = await exits.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        exits.push_async_callback(browser.close)
        people = People(stack, browser, exits)
        slow, pages = await prepare(await people.enter(tenant="acme"))
        for theme, width in LOOKS:
            person = await people.enter(tenant="acme", theme=theme, width=width)
            await person.api("POST", f"/jobs/{slow}/run")
            await eventually(lambda person=person: _is_running(person), what="a run")
            for name, path in pages.items():
                page = await person.open(path)
                await _settle(page)
                await page.screenshot(path=into / f"{name}-{theme}-{width}.png", full_page=width < 800)
        complaints = [line for person in people.all for line in person.said]
        if complaints:
            sys.exit("\n".join(complaints))


async def _is_running(person: Person) -> bool:
    """Whether there is a bar to see."""
    runs = (await person.api("GET", "/executions?state=running"))["items"]
    return any(((run["progress"] or {}).get("percent") or 0) > 20 for run in runs)


async def _settle(page: Page) -> None:
    await page.wait_for_load_state("load")
    # What a page asks for after it is there, such as the preview of the editor.
    await page.wait_for_function("document.querySelectorAll('.htmx-request').length === 0")


def main(into: Path = Path("screenshots")) -> None:
    """Take them all."""
    asyncio.run(take(into))


if __name__ == "__main__":
    typer.run(main)
