"""Signing in at a real OpenID Connect provider: authorization code with PKCE, renewal, and what must not work."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.async_api import Browser, Page

from deploy.local.processes import Child, free_port, until_ready
from deploy.local.stack import SERVICES
from services.console.domain.sessions import joined
from services.console.pages.page import SESSION_COOKIE
from tests.system.driver import PATIENCE
from tests.system.stacks import running, show

PROVIDER = Path(__file__).parent.parent / "identity"
TOKEN_SECONDS = 62
"""Every access token is due for renewal 2 s after it was given (`RENEWED_BEFORE`)."""


@dataclass
class Organisation:
    """A console whose people sign in at a provider of their own."""

    console: str
    provider: str


@pytest.fixture(scope="module")
async def organisation(chromium: str) -> AsyncIterator[Organisation]:
    """A provider, and a stack whose services believe nobody else."""
    if shutil.which("npm") is None:
        pytest.skip("there is no npm on the PATH, which brings the identity provider")
    await asyncio.to_thread(_installed)
    issuer_port, console_port = free_port(), free_port()
    issuer, console = (f"http://127.0.0.1:{port}" for port in (issuer_port, console_port))
    provider = Child(
        "identity",
        ["node", PROVIDER / "server.mjs", str(issuer_port), f"{console}/sign-in/back", str(TOKEN_SECONDS)],
        output=show,
    )
    believed = {"AUTH_ISSUER": issuer, "AUTH_JWKS_URL": f"{issuer}/jwks", "AUTH_PUBLIC_KEY": ""}
    environment = {
        **{f"CDDS_{service.upper()}_{name}": value for service in SERVICES for name, value in believed.items()},
        "CDDS_CONSOLE_PUBLIC_URL": console,
        "CDDS_CONSOLE_CLIENT_ID": "console",
        "CDDS_CONSOLE_CLIENT_SECRET": "the console's secret, for tests",
    }
    try:
        await provider.start()
        await until_ready(provider, _answers(f"{issuer}/jwks"), PATIENCE)
        async with running("embedded", environment=environment, console_port=console_port):
            yield Organisation(console, issuer)
    finally:
        await provider.stop()


def _installed() -> None:
    """The provider's packages, as its lock file has them."""
    # Written at its end; half of them would be as good as none.
    if not (PROVIDER / "node_modules" / ".package-lock.json").exists():
        subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=PROVIDER, check=True)


def _answers(url: str) -> Callable[[], Awaitable[bool]]:
    async def answers() -> bool:
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(url)).is_success
        except httpx.TransportError:
            return False

    return answers


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A browser that nobody has used."""
    context = await browser.new_context()
    yield await context.new_page()
    await context.close()


async def _sign_in(page: Page, organisation: Organisation, account: str, there: str = "/jobs") -> None:
    await page.goto(organisation.console + there)
    await page.get_by_role("link", name="Sign in").click()
    await page.locator("input[name=login]").fill(account)
    await page.locator("input[name=password]").fill("any")
    await page.locator("button[type=submit]").click()
    await page.locator("button[type=submit]").click()  # the provider asks for consent
    await page.wait_for_url(f"{organisation.console}/**")


async def test_people_sign_in_at_their_provider_and_come_back_to_the_page_they_asked_for(
    organisation: Organisation, page: Page
) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    await _sign_in(page, organisation, "ann@acme:viewer", "/jobs?source=ucs")
    assert page.url == f"{organisation.console}/jobs?source=ucs"
    asked = next(parse_qs(urlsplit(url).query) for url in requests if url.startswith(f"{organisation.provider}/auth?"))
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["response_type"] == ["code"]
    assert len(asked["code_challenge"][0]) == 43
    cookies = {cookie["name"]: cookie for cookie in await page.context.cookies()}
    assert cookies[SESSION_COOKIE]["httpOnly"]
    assert cookies[SESSION_COOKIE]["sameSite"] == "Lax"
    assert "cdds_sign_in" not in cookies


async def test_a_session_is_renewed_before_its_token_expires(organisation: Organisation, page: Page) -> None:
    await _sign_in(page, organisation, "ann@acme:viewer")
    first = await _session(page)
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while await _session(page) == first:
            await page.reload()
            assert "/sign-in" not in page.url
    # The provider takes a refresh token once: tabs that ask at the same time must not end the session.
    renewed = await _session(page)
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while await _session(page) == renewed:
            answers = await asyncio.gather(
                *(page.context.request.get(f"{organisation.console}/jobs") for _ in range(5))
            )
            assert all("/sign-in" not in answer.url for answer in answers)


async def _session(page: Page) -> str:
    return joined(SESSION_COOKIE, {cookie["name"]: cookie["value"] for cookie in await page.context.cookies()})


@pytest.mark.parametrize(
    "query", ["state=another&code=stolen", "code=stolen", "error=access_denied&state=x", "state=&code="]
)
async def test_what_was_not_begun_here_does_not_sign_in(organisation: Organisation, page: Page, query: str) -> None:
    await page.goto(f"{organisation.console}/sign-in/start")  # begun, and left
    answer = await page.context.request.get(f"{organisation.console}/sign-in/back?{query}")
    assert answer.status == 422
    assert SESSION_COOKIE not in {cookie["name"] for cookie in await page.context.cookies()}


async def test_a_code_is_not_taken_twice(organisation: Organisation, page: Page) -> None:
    back: list[str] = []
    page.on("request", lambda request: back.append(request.url) if "/sign-in/back?" in request.url else None)
    await _sign_in(page, organisation, "ann@acme:viewer")
    await page.context.clear_cookies(name=SESSION_COOKIE)
    answer = await page.context.request.get(back[0])
    assert answer.status == 422
    assert "not begun here" in await answer.text()
