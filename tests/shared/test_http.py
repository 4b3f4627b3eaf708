"""Every refusal is a problem document that says what is wrong and what to do, and nothing about our insides."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import asyncpg
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from shared.auth import Authenticator
from shared.config import ServiceSettings
from shared.http import (
    MAX_BODY_BYTES,
    Problem,
    Reader,
    create_app,
    cursor,
    invalid,
    position,
    read_cursor,
    read_position,
)
from shared.preconditions import read_if_match


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Daily(Strict):
    kind: Literal["daily"]
    at: str = Field(max_length=5)


class Hourly(Strict):
    kind: Literal["hourly"]
    every: Literal[1, 2, 3]

    @model_validator(mode="after")
    def _not_two(self) -> "Hourly":
        if self.every == 2:
            raise ValueError("two is not wanted")
        return self


class Body(Strict):
    title: str
    schedule: Annotated[Daily | Hourly, Field(discriminator="kind")]
    parts: list[Hourly] = []
    start: Literal["now"] | int | None = None


class Refused(Exception):
    """A refusal of a service's own."""


@pytest.fixture
def app(tmp_path: Path, token_key: Ed25519PrivateKey) -> FastAPI:
    public = tmp_path / "token.pem"
    public.write_bytes(token_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    settings = ServiceSettings(http_port=1, postgres=SecretStr(""), kafka="", auth_issuer="t", auth_public_key=public)

    async def away() -> None:
        raise ConnectionRefusedError("10.0.0.7:5432")

    async def fine() -> None:
        pass

    problems = {Refused: lambda _: Problem(409, "refused", "Not now.")}
    app = create_app("test", Authenticator(settings), {"postgres": away, "consumer": fine}, problems)
    raising: dict[str, Exception] = {
        "lost": asyncpg.ConnectionDoesNotExistError("to 10.0.0.7"),
        "refused-connection": ConnectionRefusedError("10.0.0.7"),
        "bug": RuntimeError("secret internals"),
        "refused": Refused(),
        "invalid": invalid("/title", "is taken", "Use another."),
    }

    @app.post("/things")
    async def post(body: Body) -> str:
        return body.title

    @app.post("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    @app.get("/raise/{name}")
    async def fail(name: str) -> None:
        raise raising[name]

    @app.get("/mine")
    async def mine(caller: Reader) -> str:
        return caller.tenant

    return app


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def problem(answer: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, body["status"], body["type"].rpartition("/")[2]) == (status, status, slug)
    assert body["title"]
    assert body["detail"]
    return body


HOURLY = {"kind": "hourly", "every": 1}


@pytest.mark.parametrize(
    ("changes", "pointer", "remedy"),
    [
        ({"schedule": {"kind": "hourly", "every": 5}}, "/schedule/every", "Use 1, 2 or 3."),
        ({"schedule": {"kind": "hourly", "every": 2}}, "/schedule", "Correct"),
        ({"schedule": {"kind": "hourly"}}, "/schedule/every", "Add this field."),
        ({"schedule": {"kind": "yearly"}}, "/schedule", "Use one of 'daily', 'hourly'."),
        ({"schedule": {}}, "/schedule", "Add 'kind'."),
        ({"schedule": []}, "/schedule", "Correct"),
        ({"schedule": {**HOURLY, "hourly": 1}}, "/schedule/hourly", "Remove this field"),
        ({"schedule": {"kind": "daily", "at": "10 o'clock"}}, "/schedule/at", "Use at most 5 characters."),
        ({"titel": "x"}, "/titel", "Remove this field"),
        ({"a/b~c": "x"}, "/a~1b~0c", "Remove this field"),
        ({"": "x"}, "/", "Remove this field"),
        ({"parts": [HOURLY, {"kind": "hourly", "every": 9}]}, "/parts/1/every", "Use 1, 2 or 3."),
        ({"parts": [HOURLY, {}]}, "/parts/1/every", "Add this field."),
        ({"start": {}}, "/start", "Use 'now'."),
        ({"start": []}, "/start", "Use 'now'."),
        ({"title": 7}, "/title", "Correct"),
    ],
)
async def test_a_pointer_names_the_field_as_it_was_sent(
    http: httpx.AsyncClient, changes: dict[str, Any], pointer: str, remedy: str
) -> None:
    body = problem(await http.post("/things", json={"title": "t", "schedule": HOURLY, **changes}), 422, "invalid")
    found = [error for error in body["errors"] if error["pointer"] == pointer]
    assert any(error["remedy"].startswith(remedy) for error in found), body["errors"]
    assert len({error["pointer"] for error in body["errors"]}) == (2 if changes == {"parts": [HOURLY, {}]} else 1)


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[1,", b'{"a": 1}}'])
async def test_a_body_that_is_no_json_object_is_refused(http: httpx.AsyncClient, content: bytes) -> None:
    answer = await http.post("/things", content=content, headers={"Content-Type": "application/json"})
    problem(answer, 422 if content == b"" else 400, "invalid" if content == b"" else "malformed")


@pytest.mark.parametrize("path", ["/things", "/raw"])
@pytest.mark.parametrize("announced", [True, False], ids=["announced", "in chunks"])
async def test_a_body_that_is_too_large_is_refused(http: httpx.AsyncClient, path: str, announced: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 2**20 + 1):
            yield b" " * 2**20

    content = b" " * (MAX_BODY_BYTES + 1) if announced else chunks()
    body = problem(await http.post(path, content=content), 413, "too-large")
    assert str(MAX_BODY_BYTES) in body["detail"]


async def test_a_body_of_the_greatest_size_is_taken(http: httpx.AsyncClient) -> None:
    assert (await http.post("/raw", content=b" " * MAX_BODY_BYTES)).json() == MAX_BODY_BYTES


async def test_what_is_not_there_is_not_found_and_what_is_not_allowed_says_so(http: httpx.AsyncClient) -> None:
    problem(await http.get("/nowhere"), 404, "not-found")
    answer = await http.delete("/things")
    problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("name", ["lost", "refused-connection"])
async def test_an_outage_is_503_and_says_when_to_come_again(http: httpx.AsyncClient, name: str) -> None:
    answer = await http.get(f"/raise/{name}")
    problem(answer, 503, "unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert "10.0.0.7" not in answer.text


async def test_a_fault_of_ours_is_500_and_tells_nothing_about_our_insides(http: httpx.AsyncClient) -> None:
    answer = await http.get("/raise/bug")
    problem(answer, 500, "internal")
    assert "secret" not in answer.text
    assert "RuntimeError" not in answer.text


@pytest.mark.parametrize("name", ["lost", "bug"])
async def test_who_is_answered_a_fault_is_told_that_the_connection_ends(http: httpx.AsyncClient, name: str) -> None:
    """The server ends it in any case; a client that is not told, as the console, may lose its next request."""
    assert (await http.get(f"/raise/{name}")).headers["connection"] == "close"
    assert "connection" not in (await http.get("/raise/refused")).headers


async def test_a_service_adds_its_own_problems(http: httpx.AsyncClient) -> None:
    assert problem(await http.get("/raise/refused"), 409, "refused")["detail"] == "Not now."
    assert problem(await http.get("/raise/invalid"), 422, "invalid")["errors"] == [
        {"pointer": "/title", "message": "is taken", "remedy": "Use another."}
    ]


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "Bearer x", "Bearer a b", "x"])
async def test_a_request_without_a_good_token_is_unauthenticated(http: httpx.AsyncClient, header: str | None) -> None:
    answer = await http.get("/mine", headers={} if header is None else {"Authorization": header})
    problem(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_health_says_what_is_away_and_not_where_it_was(http: httpx.AsyncClient) -> None:
    assert (await http.get("/health/live")).status_code == 200
    answer = await http.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "failed": {"postgres": "ConnectionRefusedError"}}
    assert "cdds_outbox_unsent" in (await http.get("/metrics")).text


def test_a_cursor_is_read_back_as_it_was_written() -> None:
    position = datetime(2026, 3, 29, 4, 0, 0, 123456, tzinfo=UTC), UUID(int=7)
    assert read_cursor(cursor(*position)) == position
    assert read_cursor(None) is None


@pytest.mark.parametrize("text", ["", "x", "äöü", "\ud800", "MjAyNi0wMy0yOQ", "a" * 1000])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(Problem):
        read_cursor(text)


# --- preconditions, repeats, places -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "versions"),
    [
        (None, None),
        ("*", None),
        ('"3"', frozenset({3})),
        (' "3" , "4","x"', frozenset({3, 4})),
        ('W/"3"', frozenset()),
        ('W/"3", "5"', frozenset({5})),
        ('"x"', frozenset()),
        ('""', frozenset()),
    ],
)
def test_the_versions_of_if_match(text: str | None, versions: frozenset[int] | None) -> None:
    assert read_if_match(text) == versions


@pytest.mark.parametrize("text", ["", "3", '"a, "3"', '"3', '"3";', '"3" "4"', '*, "3"', "W/", 'w/"3"', "ä"])
def test_an_if_match_that_is_no_list_of_tags_is_malformed(text: str) -> None:
    with pytest.raises(Problem) as refused:
        read_if_match(text)
    assert refused.value.status == 400


def test_a_place_leads_back_to_where_it_was_made_and_to_no_other_order() -> None:
    key = UUID(int=5)
    assert read_position(position("title", "Zürich", key), "title") == ("Zürich", key)
    assert read_position(None, "title") is None
    with pytest.raises(Problem):
        read_position(position("title", "Zürich", key), "-title")


def test_a_problem_is_written_whatever_it_is_about() -> None:
    answer = Problem(
        422, "invalid", "a\ud800", errors=[{"pointer": "/\ud800"}], number=2**40, when=[None, 1.5]
    ).response()
    body = json.loads(bytes(answer.body))
    assert (body["detail"], body["errors"], body["when"][0]) == ("a?", [{"pointer": "/?"}], None)
