"""The event stream, from a real server over real connections."""

import asyncio
import itertools
import json
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from deploy.local.postgres import EmbeddedPostgres
from deploy.local.processes import free_port
from services.console import api as console
from services.history.api import stream
from services.history.config import Settings
from services.history.feed import PAGE_EVENTS, Feed, Limits
from services.history.store import Store
from shared import runtime
from shared.auth import Authenticator, issue
from shared.database import Database, connect, outlast
from shared.events import Event, RunNowRequested
from shared.http import create_app
from tests.conftest import fresh_database
from tests.history.conftest import ISSUER, HeadersFor
from tests.history.events import START, Run, finished_run, project

PATIENCE = timedelta(seconds=20)


# --- the server ----------------------------------------------------------------------------------------------------


Start = Callable[..., Any]


@pytest.fixture
def authenticator(tmp_path: Path, token_key: Ed25519PrivateKey) -> Authenticator:
    public = tmp_path / "tokens.pem"
    public.write_bytes(token_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return Authenticator(
        Settings(
            http_port=1,
            postgres="postgresql://127.0.0.1:1/none",
            kafka="127.0.0.1:1",
            auth_issuer=ISSUER,
            auth_public_key=public,
        )
    )


@asynccontextmanager
async def served(app: Any, *work: Any) -> AsyncGenerator[str]:
    """The base URL of `app`, served as a service serves it, while `work` is done; then all is stopped at once."""
    port = free_port()
    tasks = [asyncio.create_task(part) for part in (runtime.serve_http(app, "127.0.0.1", port), *work)]
    try:
        await reached(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        for task in tasks:
            task.cancel()
        failed = [end for end in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(end, Exception)]
    if failed:
        raise failed[0]


async def reached(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0)
        else:
            writer.close()
            return


@asynccontextmanager
async def streaming(
    store: Store, authenticator: Authenticator, limits: Limits | None = None, patience: timedelta = PATIENCE
) -> AsyncGenerator[str]:
    """The base URL of a history that does nothing but stream."""
    feed = Feed(store, patience, limits)
    app = create_app("CDDS history", authenticator, {})
    app.include_router(stream.router(feed), prefix="/api/v1")
    async with served(app, feed.run()) as address:
        yield address


@pytest.fixture
async def address(store: Store, authenticator: Authenticator) -> AsyncIterator[str]:
    async with streaming(store, authenticator) as address:
        yield address


# --- the readers ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    """What a client makes of one block of lines; `id` is where it would come back to, this block included."""

    id: int
    type: str | None
    body: dict[str, Any]
    comment: str | None


class Listener:
    """A client of the stream, as the HTML standard describes it."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.last_id = -1
        self._blocks = self._read()

    async def opened(self) -> "Listener":
        """Wait until the server has said from where on it tells."""
        await anext(self._blocks)
        return self

    async def next(self) -> Heard:
        """The next event, passing over what tells none."""
        return await anext(heard async for heard in self._blocks if heard.type)

    async def take(self, count: int) -> list[Heard]:
        return [await self.next() for _ in range(count)]

    async def comment(self) -> Heard:
        return await anext(heard async for heard in self._blocks if heard.comment)

    async def rest(self) -> list[Heard]:
        """What still comes until the server ends the response."""
        return [heard async for heard in self._blocks if heard.type]

    async def _read(self) -> AsyncIterator[Heard]:
        fields: dict[str, str] = {}
        async for line in self.response.aiter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
                continue
            self.last_id = int(fields.get("id", self.last_id))
            yield Heard(self.last_id, fields.get("event"), json.loads(fields.get("data", "{}")), fields.get(""))
            fields = {}


@asynccontextmanager
async def listening(
    address: str, headers: dict[str, str], last_id: int | None = None, **query: Any
) -> AsyncGenerator[Listener]:
    """A reader that has been told from where on it hears."""
    sent = headers if last_id is None else {**headers, "Last-Event-ID": str(last_id)}
    async with (
        httpx.AsyncClient(base_url=address, timeout=None) as client,
        client.stream("GET", "/api/v1/stream", headers=sent, params=query) as response,
    ):
        assert response.status_code == 200, await response.aread()
        listener = await Listener(response).opened()
        yield listener


async def rest_of(address: str, headers: dict[str, str], last_id: int | None = None, **query: Any) -> list[Heard]:
    """All that a reader hears until the server ends its stream."""
    async with listening(address, headers, last_id, **query) as listener:
        return await listener.rest()


def ids(events: list[Event]) -> list[str]:
    return [str(event.event_id) for event in events]


def heard_ids(heard: list[Heard]) -> list[str]:
    return [one.body["event_id"] for one in heard]


def requests(count: int, tenant: str = "t1", job_id: UUID | None = None) -> list[Event]:
    job = job_id or uuid4()
    return [RunNowRequested(occurred_at=START, tenant=tenant, job_id=job, actor="a") for _ in range(count)]


# --- live ----------------------------------------------------------------------------------------------------------


async def test_events_come_as_they_happen_in_order_and_as_they_were_told(
    address: str, store: Store, headers_for: HeadersFor
) -> None:
    _, events = finished_run()
    told = [event for event in events if type(event).__name__ != "RunProgressed"]
    async with listening(address, headers_for("t1")) as listener:
        for event in told:
            await project(store, [event])
        heard = await listener.take(len(told))

    assert heard_ids(heard) == ids(told)
    assert [one.type for one in heard] == [type(event).__name__ for event in told]
    assert [one.body for one in heard] == [event.model_dump(mode="json") for event in told]
    assert all(a.id < b.id for a, b in itertools.pairwise(heard))


async def test_the_answer_is_not_kept_by_anybody_on_its_way(address: str, headers_for: HeadersFor) -> None:
    async with listening(address, headers_for("t1")) as listener:
        headers = listener.response.headers

    assert headers["content-type"].startswith("text/event-stream")
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-store", "no")


async def test_only_what_happens_from_now_on_is_told_to_who_does_not_come_back(
    address: str, store: Store, headers_for: HeadersFor
) -> None:
    before, after = requests(2), requests(2)
    async with listening(address, headers_for("t1")):
        await project(store, before)
        async with listening(address, headers_for("t1")) as listener:
            await project(store, after)

            assert heard_ids(await listener.take(2)) == ids(after)


async def test_the_stream_of_a_job_or_a_run_tells_only_of_it(
    address: str, store: Store, headers_for: HeadersFor
) -> None:
    mine, sibling, other = Run(), Run(), Run()
    sibling.job_id = mine.job_id
    async with (
        listening(address, headers_for("t1"), job_id=mine.job_id) as of_job,
        listening(address, headers_for("t1"), run_id=mine.run_id) as of_run,
        listening(address, headers_for("t1"), job_id=mine.job_id, run_id=mine.run_id) as of_both,
        listening(address, headers_for("t1"), job_id=other.job_id, run_id=mine.run_id) as of_none,
        listening(address, headers_for("t1")) as of_all,
    ):
        first = [run.requested() for run in (mine, sibling, other)]
        second = [run.queued() for run in (other, sibling, mine)]
        await project(store, [*first, *second])

        assert heard_ids(await of_all.take(6)) == ids([*first, *second])
        assert heard_ids(await of_job.take(4)) == ids([first[0], first[1], second[1], second[2]])
        assert heard_ids(await of_run.take(2)) == ids([first[0], second[2]])
        assert heard_ids(await of_both.take(2)) == ids([first[0], second[2]])
        matching = Run()
        matching.job_id, matching.run_id = other.job_id, mine.run_id
        await project(store, [last := matching.requested()])
        assert heard_ids(await of_none.take(1)) == ids([last])


async def test_progress_is_told_while_a_run_goes_on_and_is_no_place_to_come_back_to(
    address: str, store: Store, headers_for: HeadersFor
) -> None:
    run = Run()
    async with listening(address, headers_for("t1"), run_id=run.run_id) as listener:
        await project(store, [run.requested(), run.queued(), run.started()])
        started = (await listener.take(3))[-1]
        await project(store, [tick := run.progressed()])
        heard = await listener.next()

    assert (heard.type, heard.id) == ("RunProgressed", started.id)
    assert heard.body == tick.model_dump(mode="json", exclude={"event_id", "requested_at"})


async def test_the_stream_is_described(address: str) -> None:
    async with httpx.AsyncClient(base_url=address) as client:
        described = (await client.get("/openapi.json")).json()["paths"]["/api/v1/stream"]["get"]

    assert list(described["responses"]["200"]["content"]) == ["text/event-stream"]
    assert {"401", "403", "422", "503"} <= described["responses"].keys()
    assert {(one["in"], one["name"]) for one in described["parameters"]} == {
        ("query", "job_id"), ("query", "run_id"), ("query", "last_event_id"), ("header", "Last-Event-ID")
    }  # fmt: skip


# --- coming back ---------------------------------------------------------------------------------------------------


async def test_a_reader_that_comes_back_misses_nothing_and_hears_nothing_twice(
    address: str, store: Store, headers_for: HeadersFor
) -> None:
    batches = [requests(1 + number % 7) for number in range(60)]
    told = [event for batch in batches for event in batch]

    async def tell() -> None:
        for batch in batches:
            await project(store, batch)

    heard: list[Heard] = []
    async with listening(address, headers_for("t1")) as listener:
        last_id = listener.last_id
    telling = asyncio.create_task(tell())
    while len(heard) < len(told):
        async with listening(address, headers_for("t1"), last_id) as listener:
            heard += await listener.take(min(11, len(told) - len(heard)))
            last_id = listener.last_id
    await telling

    assert heard_ids(heard) == ids(told)


async def test_what_was_missed_is_told_in_pages_before_what_is_new(
    address: str, store: Store, headers_for: HeadersFor
) -> None:
    job_id = uuid4()
    missed, others, new = (
        requests(3 * PAGE_EVENTS, job_id=job_id),
        requests(2 * PAGE_EVENTS),
        requests(5, job_id=job_id),
    )
    await project(store, [*missed[:PAGE_EVENTS], *others, *missed[PAGE_EVENTS:]])
    async with (
        listening(address, headers_for("t1"), 0) as of_all,
        listening(address, headers_for("t1"), 0, job_id=job_id) as of_job,
    ):
        await project(store, new)

        assert len(await of_all.take(len(missed) + len(others) + len(new))) == 505
        assert heard_ids(await of_job.take(len(missed) + len(new))) == ids([*missed, *new])


async def test_a_reader_that_heard_nothing_comes_back_to_where_it_was(
    address: str, store: Store, headers_for: HeadersFor
) -> None:
    async with listening(address, headers_for("t1")) as listener:
        last_id = listener.last_id
    await project(store, missed := requests(2))

    async with listening(address, headers_for("t1"), last_id) as listener:
        assert heard_ids(await listener.take(2)) == ids(missed)


async def test_the_header_is_newer_than_the_query(address: str, store: Store, headers_for: HeadersFor) -> None:
    await project(store, told := requests(3))
    async with listening(address, headers_for("t1"), last_event_id=0) as listener:
        heard = await listener.take(3)
    async with listening(address, headers_for("t1"), heard[1].id, last_event_id=0) as listener:
        again = await listener.take(1)

    assert heard_ids([*heard, *again]) == ids([*told, told[2]])


async def test_a_position_that_is_still_to_come_hides_nothing(
    address: str, store: Store, headers_for: HeadersFor
) -> None:
    async with listening(address, headers_for("t1"), 2**63 - 1) as listener:
        await project(store, told := requests(1))

        assert heard_ids(await listener.take(1)) == ids(told)


@pytest.mark.parametrize("wrong", ["-1", "x", "1.5", str(2**63), ""])
async def test_an_id_that_we_never_gave_is_refused(address: str, headers_for: HeadersFor, wrong: str) -> None:
    async with httpx.AsyncClient(base_url=address, headers=headers_for("t1")) as client:
        by_header = await client.get("/api/v1/stream", headers={"Last-Event-ID": wrong})
        by_query = await client.get("/api/v1/stream", params={"last_event_id": wrong})

    for answer, pointer in ((by_header, "/header/Last-Event-ID"), (by_query, "/query/last_event_id")):
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
        assert answer.json()["errors"][0]["pointer"] == pointer


# --- many and slow readers -----------------------------------------------------------------------------------------


async def test_a_slow_reader_is_dropped_and_disturbs_nobody(
    store: Store, authenticator: Authenticator, headers_for: HeadersFor
) -> None:
    limits = Limits(waiting_frames=2 * PAGE_EVENTS)
    async with streaming(store, authenticator, limits) as address, listening(address, headers_for("t1")) as listener:
        slow = await connected(address, headers_for("t1"))
        told = 0
        while not await gone(address, readers=1):
            await project(store, [bulky(16_000) for _ in range(PAGE_EVENTS)])
            told += PAGE_EVENTS
            assert len(await listener.take(PAGE_EVENTS)) == PAGE_EVENTS
        # The server has broken the connection off, so what had been on its way ends without an end.
        got = await everything_from(slow)
        await project(store, last := requests(1))

        assert heard_ids(await listener.take(1)) == ids(last)
        assert told >= limits.waiting_frames
        assert not got.endswith(b"0\r\n\r\n")


async def connected(address: str, headers: dict[str, str]) -> socket.socket:
    """A reader that asks and then takes nothing; its own buffer is small."""
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.setblocking(False)
    host, port = address.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    await loop.sock_connect(slow, (host, int(port)))
    lines = [f"{name}: {value}" for name, value in headers.items()]
    await loop.sock_sendall(slow, "\r\n".join(["GET /api/v1/stream HTTP/1.1", "Host: h", *lines, "", ""]).encode())
    assert (await loop.sock_recv(slow, 15)) == b"HTTP/1.1 200 OK"
    return slow


async def everything_from(slow: socket.socket) -> bytes:
    """What is left of a connection that the server has given up."""
    got = b""
    with slow:
        try:
            while piece := await asyncio.get_running_loop().sock_recv(slow, 65536):
                got += piece
        except ConnectionResetError:
            pass
    return got


async def gone(address: str, readers: int) -> bool:
    """Whether the server has so many readers left."""
    async with httpx.AsyncClient(base_url=address) as client:
        metrics = (await client.get("/metrics")).text
    return f"\ncdds_stream_readers {float(readers)}\n" in metrics


def bulky(size: int) -> Event:
    return RunNowRequested(occurred_at=START, tenant="t1", job_id=uuid4(), actor="a" * size)


async def test_more_readers_than_this_process_takes_are_told_to_come_later(
    store: Store, authenticator: Authenticator, headers_for: HeadersFor
) -> None:
    async with streaming(store, authenticator, Limits(readers=2)) as address:
        async with listening(address, headers_for("t1")), listening(address, headers_for("t2")):
            async with httpx.AsyncClient(base_url=address, headers=headers_for("t1")) as client:
                answer = await client.get("/api/v1/stream")

            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert answer.json()["type"].endswith("/unavailable")
        while not await gone(address, readers=0):
            pass
        async with listening(address, headers_for("t1")):
            pass


async def test_a_quiet_stream_says_that_it_lives_and_how_far_it_is(
    store: Store, authenticator: Authenticator, headers_for: HeadersFor
) -> None:
    async with (
        streaming(store, authenticator, Limits(heartbeat=timedelta(milliseconds=50))) as address,
        listening(address, headers_for("t1"), job_id=uuid4()) as quiet,
        listening(address, headers_for("t1")) as listener,
    ):
        await quiet.comment()
        await project(store, requests(1))
        heard = await listener.next()

        # An event of another job takes the reader further, though it is not told of it.
        while (await quiet.comment()).id < heard.id:
            pass
        assert quiet.last_id == heard.id


# --- whose events --------------------------------------------------------------------------------------------------


async def test_tenants_that_share_one_connection_never_hear_of_each_other(
    postgres: EmbeddedPostgres, templates: dict[str, str], authenticator: Authenticator, headers_for: HeadersFor
) -> None:
    tenants = ("t1", "t2", "t3")
    runs = {tenant: Run(tenant) for tenant in tenants}
    filters: list[dict[str, Any]] = [{}, {"run_id": runs["t2"].run_id}, {"job_id": runs["t3"].job_id}]
    async with (
        fresh_database(postgres, templates["history"]) as dsn,
        connect(dsn, "history", connections=1) as database,
    ):
        store = Store(database)
        await store.keep_partitions()
        await project(store, [event for run in runs.values() for event in (run.requested(), run.queued())])
        async with streaming(store, authenticator) as address, AsyncExitStack() as exits:
            readers = {
                (tenant, last_id, number): asyncio.create_task(rest_of(address, headers_for(tenant), last_id, **wanted))
                for tenant in tenants
                for last_id in (None, 0)
                for number, wanted in enumerate(filters)
            }
            listeners = [await exits.enter_async_context(listening(address, headers_for(tenant))) for tenant in tenants]
            while not await gone(address, readers=len(readers) + len(listeners)):
                pass
            for run in runs.values():
                await project(store, [run.started()])
            while {(await listener.next()).type for listener in listeners} != {"RunProgressed"}:
                await project(store, [run.progressed() for run in runs.values()])
            await project(store, [event for run in runs.values() for event in run.succeeded()])
            for listener in listeners:
                while (await listener.next()).type != "RunSucceeded":
                    pass
        # The server has stopped, so nobody hears any more.
        heard = {key: await reader for key, reader in readers.items()}

    for (tenant, last_id, number), told in heard.items():
        wants_others = (number == 1 and tenant != "t2") or (number == 2 and tenant != "t3")
        assert {one.body["tenant"] for one in told} == (set() if wants_others else {tenant})
        if not wants_others:
            types = [one.type for one in told]
            assert ("RunRequested" in types, "RunProgressed" in types) == (last_id == 0, True)
            assert types[-1] == "RunSucceeded"


async def test_a_stream_needs_a_token_and_ends_with_it(
    address: str, store: Store, token_key: Ed25519PrivateKey
) -> None:
    async with httpx.AsyncClient(base_url=address) as client:
        assert (await client.get("/api/v1/stream")).status_code == 401
    token = issue(token_key, ISSUER, subject="v", tenant="t1", role="viewer", lifetime=timedelta(seconds=6))
    async with listening(address, {"Authorization": f"Bearer {token}"}) as listener:
        await project(store, requests(1))

        assert len(await listener.rest()) == 1


# --- stops and outages ---------------------------------------------------------------------------------------------


async def test_a_stop_ends_all_streams_and_waits_for_nobody(
    store: Store, authenticator: Authenticator, headers_for: HeadersFor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "uvicorn.error")
    async with streaming(store, authenticator) as address:
        readers = [asyncio.create_task(rest_of(address, headers_for("t2"))) for _ in range(20)]
        async with listening(address, headers_for("t1")) as listener:
            stuck = await connected(address, headers_for("t1"))
            await project(store, [bulky(100_000) for _ in range(PAGE_EVENTS)])
            # What this one has got, the other one has been sent or waits for.
            await listener.take(PAGE_EVENTS)
        while not await gone(address, readers=21):
            pass

    assert [await reader for reader in readers] == [[]] * 20
    assert not (await everything_from(stuck)).endswith(b"0\r\n\r\n")
    # The server logs if it has to cancel what does not end by itself.
    assert caplog.messages.count("Shutting down") == 1
    assert "Cancel" not in caplog.text
    assert "ASGI" not in caplog.text


async def test_readers_stay_while_connections_to_postgresql_come_and_go(
    address: str, store: Store, database: Database, headers_for: HeadersFor
) -> None:
    async with listening(address, headers_for("t1")) as listener:
        for _ in range(3):
            async with database.session() as connection:
                await connection.execute("SET ROLE NONE")
                await connection.execute(
                    """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                       WHERE datname = current_database() AND pid <> pg_backend_pid()"""
                )
            told = requests(1)
            await outlast(partial(project, store, told), PATIENCE)

            assert heard_ids(await listener.take(1)) == ids(told)


async def test_readers_are_let_go_when_postgresql_stays_away(
    postgres: EmbeddedPostgres, templates: dict[str, str], authenticator: Authenticator, headers_for: HeadersFor
) -> None:
    async with fresh_database(postgres, templates["history"]) as dsn:
        async with connect(dsn, "history") as database:
            store = Store(database)
            await store.keep_partitions()
            await project(store, requests(1))
            coming_back = await Feed(store, timedelta(0)).open("t1", (None, None), 0, datetime.max.replace(tzinfo=UTC))
            serving = streaming(store, authenticator, patience=timedelta(0))
            address = await serving.__aenter__()
            reading = asyncio.create_task(rest_of(address, headers_for("t1")))
            while not await gone(address, readers=1):
                pass
        assert await reading == []
        assert len([chunk async for chunk in coming_back.chunks()]) == 1
        coming_back.close()
        async with httpx.AsyncClient(base_url=address, headers=headers_for("t1")) as client:
            assert (await client.get("/api/v1/stream")).status_code == 503
        # A service whose loop fails ends, and is started again.
        with pytest.raises(asyncpg.InterfaceError):
            await serving.__aexit__(None, None, None)


async def test_looking_for_what_is_new_reads_little_however_much_there_is(store: Store, database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL ROLE NONE")
        await connection.execute(
            """INSERT INTO events (occurred_at, event_id, position, tenant, type, body)
               SELECT now() - n % 300 * interval '1 day', gen_random_uuid(), nextval('positions'), 't' || n % 7,
                      'X', '{}'
               FROM generate_series(1, 20000) AS n"""
        )
        await connection.execute("ANALYZE events")
        statements: list[Any] = []
        note = statements.append
        connection.add_query_logger(note)
    # The pool hands out the connection that was returned last.
    first = (await store.newest_positions(["t1", "t2"]))["t1"][0] - 10_000
    assert (await store.newest_position("t1"))[0] == first + 10_000
    assert len(await store.events_after("t1", first, PAGE_EVENTS)) == PAGE_EVENTS

    about_events = [logged for logged in statements if "FROM events" in logged.query]
    assert len(about_events) == 3
    for logged in about_events:
        async with database.tenant("t1") as connection:
            connection.remove_query_logger(note)
            rows = await connection.fetch("EXPLAIN (ANALYZE, BUFFERS) " + logged.query, *logged.args)
        plan = "\n".join(row[0] for row in rows)
        assert "tenant_position_idx" in plan
        assert "Seq Scan on events" not in plan
        assert "Sort  (" not in plan


# --- through the console -------------------------------------------------------------------------------------------


async def test_the_console_passes_events_on_at_once_and_a_reader_that_leaves_frees_history(
    address: str, store: Store, headers_for: HeadersFor
) -> None:
    async with httpx.AsyncClient(timeout=None) as client:
        app = create_app("CDDS console", None, {})
        app.include_router(console.router(client, {"stream": address}))
        async with served(app) as front:
            async with listening(front, headers_for("t1"), 0) as listener:
                for _ in range(3):
                    await project(store, told := requests(1))
                    assert heard_ids(await listener.take(1)) == ids(told)
                assert not await gone(address, readers=0)
            while not await gone(address, readers=0):
                pass


async def test_a_stop_of_the_console_waits_for_no_stream_and_frees_history(
    address: str, headers_for: HeadersFor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "uvicorn.error")
    async with httpx.AsyncClient(timeout=None) as client:
        app = create_app("CDDS console", None, {})
        app.include_router(console.router(client, {"stream": address}))
        async with served(app) as front:
            reading = asyncio.create_task(rest_of(front, headers_for("t1")))
            while not await gone(address, readers=1):
                pass
        with pytest.raises(httpx.TransportError):
            await reading
        while not await gone(address, readers=0):
            pass

    assert caplog.messages.count("Shutting down") == 1
    assert "Cancel" not in caplog.text
    assert "ASGI" not in caplog.text
