"""A stack, a browser, and people who are signed in."""

import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import httpx
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Response, async_playwright, expect

from cli.stack import fill_sources
from deploy.local.stack import SOURCES_DATABASE, Stack
from tests.console.browser import lab
from tests.system.stacks import QUICK, running

ROWS: Final = 20_000
RULES: Final = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
DROPPED: Final = re.compile(r"^htmx:(sendAbort|afterRequest), ")
"""A question that nobody needs an answer to any more, as what was typed on; htmx notes it as an error."""
PATIENCE_MS: Final = 20_000
"""How long a page may take to show what is expected of it, on a machine with more to do."""
ANSWERED: Final = re.compile(r"the server responded with a status of (403|404|409|410|412|422|503)\b")
"""Refusals that a page shows; the browser notes each on its console."""

expect.set_options(timeout=15_000)  # of the default 5 s nothing is left where other work keeps the machine busy

_tenants = count(1)
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where the browser is; CI insists on one."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        if os.environ.get("CDDS_REQUIRE_BROWSER"):
            pytest.fail("there is no Chromium on the PATH: install it, for example `apt-get install chromium`")
        pytest.skip("there is no Chromium on the PATH")
    return found


@pytest.fixture(scope="session")
async def stack(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """All services, with demo data in the sources and a laboratory beside them."""
    sources = lab.sources(tmp_path_factory.mktemp("sources"))
    async with running("embedded", environment=QUICK, sources=sources) as stack:
        await fill_sources(stack.dsn(SOURCES_DATABASE), ROWS)
        await lab.build(stack.dsn(SOURCES_DATABASE))
        yield stack


@pytest.fixture(scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    """One browser; each person has a profile of their own in it."""
    async with async_playwright() as playwright:
        # Chromium's own sandbox needs rights that containers do not give; the pages are ours.
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        await browser.close()


@dataclass
class Person:
    """Somebody who is signed in, with one page open."""

    stack: Stack
    tenant: str
    token: str
    context: BrowserContext
    page: Page
    said: list[str] = field(default_factory=list)
    """What pages wrote on the browser's console, and what failed in them."""

    async def open(self, path: str) -> Page:
        """Go to a page of the console."""
        await self.page.goto(self.stack.url + path)
        return self.page

    async def api(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """What the API answers this person; fails the test when it refuses."""
        async with httpx.AsyncClient(base_url=f"{self.stack.url}/api/v1", timeout=30) as client:
            headers = {"Authorization": f"Bearer {self.token}", **more.pop("headers", {})}
            if body is not None:
                more["json"] = body
            answer = await client.request(method, path, headers=headers, **more)
            assert answer.is_success, answer.text
            return answer.json() if answer.content else None

    async def find_no_barriers(self) -> None:
        """Hold the page, as it is now, against the rules of axe-core."""
        found = await Axe().run(self.page, options={"runOnly": RULES["runOnly"]})
        assert not found.response["violations"], found.generate_report()

    def watch(self, page: Page) -> None:
        """Note what a page says and what fails in it."""
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.said.append(f"uncaught: {error}"))
        page.on("response", self._note_failure)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not (ANSWERED.search(message.text) or DROPPED.search(message.text)):
            self.said.append(f"{message.type}: {message.text}")

    def _note_failure(self, response: Response) -> None:
        if response.status >= 500 and response.status != 503:
            self.said.append(f"{response.status}: {response.url}")


class People:
    """Lets people in; everybody without a tenant gets a new one."""

    def __init__(self, stack: Stack, browser: Browser, exits: AsyncExitStack) -> None:
        self._stack = stack
        self._browser = browser
        self._exits = exits
        self.all: list[Person] = []

    async def enter(
        self, role: str = "admin", *, tenant: str | None = None, theme: str = "light", width: int = 1440,
        zone: str = "Europe/Berlin",
    ) -> Person:  # fmt: skip
        """Somebody signs in through the page for it and sees the overview."""
        tenant = tenant or f"tenant-{next(_tenants)}"
        token = self._stack.secrets.token(tenant=tenant, role=role, subject=f"{role}@{tenant}")
        context = await self._browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if theme == "dark" else "light",
            timezone_id=zone, locale="en-GB", accept_downloads=True,
        )  # fmt: skip
        self._exits.push_async_callback(context.close)
        page = await context.new_page()
        person = Person(self._stack, tenant, token, context, page)
        context.on("page", person.watch)
        person.watch(page)
        await page.goto(f"{self._stack.url}/sign-in#{token}")
        await page.get_by_role("button", name="Sign in").click()
        await page.wait_for_url(lambda url: "/sign-in" not in url)
        self.all.append(person)
        return person


@pytest.fixture
async def people(stack: Stack, browser: Browser) -> AsyncIterator[People]:
    """Who comes in; at the end nobody's pages may have complained."""
    async with AsyncExitStack() as exits:
        people = People(stack, browser, exits)
        yield people
        assert not [line for person in people.all for line in person.said]
