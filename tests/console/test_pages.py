"""What every page keeps to: who gets in, where writes come from, and what browsers are allowed."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import FastAPI

from deploy.local.processes import free_port
from services.console import pages
from services.console.config import Settings
from services.console.domain.sessions import Sealer, Session, joined, pieces
from services.console.feed import Hub
from services.console.gateway import Gateway
from services.console.pages.live import Fragments
from services.console.pages.page import SESSION_COOKIE, Console
from shared.auth import Authenticator, issue
from shared.http import create_app

HERE = "http://console.test"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
COMPLETE = {
    "title": "A job", "source": "ucs", "type": "interaction", "media_all": "on", "schedule_kind": "hourly",
    "every": "1", "timeframe_kind": "all", "all_fields": "on", "all_recipients": "on",
}  # fmt: skip
"""What the editor sends of a job at least."""
OWNED = ("jobs", "sources", "executions", "statistics", "certificates", "artifacts", "files", "estimates")


@pytest.fixture
def settings(tmp_path: Path, token_key: Ed25519PrivateKey) -> Settings:
    """Of a console whose services are all away."""
    key = tmp_path / "key.pem"
    key.write_bytes(token_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    nowhere = f"http://127.0.0.1:{free_port()}"
    return Settings.model_validate(
        {
            "http_port": 1, "auth_issuer": "test", "auth_public_key": key,
            "session_keys": Fernet.generate_key().decode(), "job_api": nowhere, "exporter": nowhere, "history": nowhere,
        }
    )  # fmt: skip


def application(settings: Settings, client: httpx.AsyncClient, public_url: str | None = None) -> FastAPI:
    app = create_app("console", None, {})
    sealer = Sealer(settings.session_keys.get_secret_value().split(","))
    owners = dict.fromkeys(OWNED, settings.job_api)
    console = Console(Gateway(client, owners), sealer, Authenticator(settings), public_url)
    pages.install(app, console, Hub(console.gateway, Fragments(console.templates)))
    return app


@pytest.fixture
async def browser(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        httpx.AsyncClient() as services,
        httpx.AsyncClient(transport=httpx.ASGITransport(application(settings, services)), base_url=HERE) as client,
    ):
        yield client


@pytest.fixture
def token(token_key: Ed25519PrivateKey) -> str:
    return issue(token_key, "test", subject="ann", tenant="acme", role="viewer", lifetime=timedelta(hours=1))


async def sign_in(browser: httpx.AsyncClient, token: str, next_page: str = "/jobs") -> httpx.Response:
    return await browser.post("/sign-in", data={"token": token, "next": next_page}, headers={"Origin": HERE})


async def test_a_session_is_a_sealed_cookie_that_scripts_cannot_read(browser: httpx.AsyncClient, token: str) -> None:
    answer = await sign_in(browser, token)
    assert (answer.status_code, answer.headers["location"]) == (303, "/jobs")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert token not in cookie
    assert "Secure" not in cookie  # this console is not served over https


async def test_behind_https_cookies_go_over_https_only(settings: Settings, token: str) -> None:
    app = application(settings, httpx.AsyncClient(), "https://cdds.test")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://inside:8000") as browser:
        sent = {"data": {"token": token}, "headers": {"Origin": "https://cdds.test"}}
        assert "Secure" in (await browser.post("/sign-in", **sent)).headers["set-cookie"]


@pytest.mark.parametrize("path", ["/jobs", "/jobs?source=ucs"])
async def test_who_is_not_signed_in_is_asked_to_and_comes_back(browser: httpx.AsyncClient, path: str) -> None:
    answer = await browser.get(path)
    assert answer.status_code == 303
    assert answer.headers["location"] == str(httpx.URL("/sign-in", params={"next": path}))


async def test_a_part_of_a_page_sends_the_whole_page_to_sign_in(browser: httpx.AsyncClient) -> None:
    shown = {"HX-Request": "true", "HX-Current-URL": f"{HERE}/jobs?source=ucs"}
    answer = await browser.get("/jobs", headers=shown)
    assert answer.status_code == 401
    assert answer.headers["hx-redirect"] == "/sign-in?next=%2Fjobs%3Fsource%3Ducs"


@pytest.mark.parametrize("forged", ["", "x", "gAAAA", "A" * 10_000])
async def test_a_cookie_that_we_did_not_seal_is_nobodys(browser: httpx.AsyncClient, forged: str) -> None:
    browser.cookies.set(SESSION_COOKIE, forged)
    assert (await browser.get("/jobs")).status_code == 303


async def test_an_expired_token_ends_the_session(
    settings: Settings, browser: httpx.AsyncClient, token_key: Ed25519PrivateKey
) -> None:
    late = issue(token_key, "test", subject="ann", tenant="acme", role="admin", lifetime=timedelta(seconds=-1))
    refused = await sign_in(browser, late)
    assert refused.status_code == 422
    assert "expired" in refused.text
    browser.cookies.set(SESSION_COOKIE, Sealer([settings.session_keys.get_secret_value()]).seal(Session(late)))
    assert (await browser.get("/jobs")).headers["location"].startswith("/sign-in")


@pytest.mark.parametrize(
    "origin", [None, "", "null", "https://evil.test", "http://console.test.evil.test", "http://evil.test/console.test"]
)
async def test_a_write_that_another_site_began_does_nothing(
    browser: httpx.AsyncClient, token: str, origin: str | None
) -> None:
    headers = {} if origin is None else {"Origin": origin}
    answer = await browser.post("/sign-in", data={"token": token}, headers=headers)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "elsewhere", ["//evil.test", "/\\evil.test", "https://evil.test", "javascript:alert(1)", "/\tevil", "", "evil.test"]
)
async def test_signing_in_leads_to_no_other_site(browser: httpx.AsyncClient, token: str, elsewhere: str) -> None:
    assert (await sign_in(browser, token, elsewhere)).headers["location"] == "/"


@pytest.mark.parametrize("path", ["/sign-in", "/jobs", "/nowhere", "/static/theme.css"])
async def test_nothing_inline_may_run_and_nobody_may_frame_us(browser: httpx.AsyncClient, path: str) -> None:
    headers = (await browser.get(path)).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"


async def test_a_service_that_is_away_is_a_page_and_not_a_crash(browser: httpx.AsyncClient, token: str) -> None:
    await sign_in(browser, token)
    answer = await browser.get("/jobs")
    assert answer.status_code == 503
    assert "Away for a moment" in answer.text
    part = await browser.get("/jobs", headers={"HX-Request": "true"})
    assert part.headers["hx-retarget"] == "#notices"


async def test_the_overview_survives_that_all_services_are_away(browser: httpx.AsyncClient, token: str) -> None:
    await sign_in(browser, token)
    answer = await browser.get("/")
    assert answer.status_code == 200
    for panel in ("What runs", "What comes next", "What failed", "What was exported", "Whether certificates are valid"):
        assert f"{panel} can't be shown at the moment" in answer.text.replace("&#39;", "'")
    assert "First steps" not in answer.text


@pytest.mark.parametrize(
    "choices", ["", "artifact=x", "&".join(["artifact=" + ".".join([str(UUID(int=1))] * 2)] * 101)]
)
async def test_a_wrong_address_is_a_page_that_names_what_is_wrong(
    browser: httpx.AsyncClient, token: str, choices: str
) -> None:
    await sign_in(browser, token)
    answer = await browser.get(f"/artifacts/download?{choices}")
    assert (answer.status_code, answer.headers["content-type"]) == (422, "text/html; charset=utf-8")
    assert "<code>/query/artifact" in answer.text


async def test_an_unknown_page_is_a_page_and_an_unknown_resource_a_problem(browser: httpx.AsyncClient) -> None:
    page = await browser.get("/nowhere")
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    problem = await browser.get("/api/v2/nowhere")
    assert problem.headers["content-type"] == "application/problem+json"


async def test_pages_have_no_inline_script_or_style() -> None:
    templates = Path(pages.__file__).parent.parent / "templates"
    for template in templates.rglob("*.html"):
        text = template.read_text()
        assert "style=" not in text, template
        assert "|safe" not in text.replace(" ", ""), template
        assert " onclick" not in text, template


def test_a_long_session_is_kept_in_pieces_and_keys_can_be_changed_in_passing() -> None:
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    session = Session("t" * 4_000, "r" * 2_000)
    kept = pieces(SESSION_COOKIE, Sealer([old]).seal(session))
    assert len(kept) > 1
    assert Sealer([new, old]).session(joined(SESSION_COOKIE, kept)) == session
    assert Sealer([new]).session(joined(SESSION_COOKIE, kept)) is None
    del kept[f"{SESSION_COOKIE}-1"]
    assert Sealer([old]).session(joined(SESSION_COOKIE, kept)) is None


async def signed_in(browser: httpx.AsyncClient, settings: Settings, key: Ed25519PrivateKey) -> None:
    """An administrator is; writes come from a page of ours."""
    token = issue(key, "test", subject="ann", tenant="acme", role="admin", lifetime=timedelta(hours=1))
    browser.cookies.set(SESSION_COOKIE, Sealer([settings.session_keys.get_secret_value()]).seal(Session(token)))
    browser.headers["Origin"] = HERE


@pytest.mark.parametrize(
    "before", ["{", "[]", "1", '"x"', "null", '{"schedule": 1}', '{"timeframe": "all"}', '{"labels": [1]}']
)
async def test_an_editor_that_carries_no_settings_is_refused(
    settings: Settings, browser: httpx.AsyncClient, token_key: Ed25519PrivateKey, before: str
) -> None:
    await signed_in(browser, settings, token_key)
    for path in ("/jobs/new", "/jobs/preview", "/jobs/estimate"):
        answer = await browser.post(path, data={"before": before, "title": "A job"})
        assert answer.status_code == 400, path


async def test_the_editor_says_what_is_missing_when_every_service_is_away(
    settings: Settings, browser: httpx.AsyncClient, token_key: Ed25519PrivateKey
) -> None:
    await signed_in(browser, settings, token_key)
    typed = {"title": "A <b>job</b>", "source": "ucs", "type": "interaction", "schedule_kind": "daily", "at": "25:00"}
    answer = await browser.post("/jobs/new", data=typed)
    assert answer.status_code == 422
    assert "Must be a time. Use a UTC time such as 02:30." in answer.text
    assert "A &lt;b&gt;job&lt;/b&gt;" in answer.text
    part = await browser.post("/jobs/preview", data=typed)
    assert (part.status_code, "Choose which data it exports." in part.text) == (200, True)
    assert "Estimates are not available" in (await browser.post("/jobs/estimate", data=COMPLETE)).text
    assert (await browser.post("/jobs/new", data=COMPLETE)).status_code == 503


async def test_a_fault_of_what_is_sent_is_no_crash(
    settings: Settings, browser: httpx.AsyncClient, token_key: Ed25519PrivateKey
) -> None:
    await signed_in(browser, settings, token_key)
    many = {f"field_{number}": "x" for number in range(10_001)}
    assert (await browser.post("/jobs/preview", data=many)).status_code == 400
    assert (await browser.post("/jobs/preview", data={"title": "x" * 5_000_000})).status_code == 413
    assert (await browser.post("/jobs/preview", content=b"%ff%00=%ff", headers=FORM)).status_code == 200
