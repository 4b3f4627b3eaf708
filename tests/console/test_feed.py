"""The live feed before a history that breaks off, refuses and goes away, over real connections."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from deploy.local.processes import free_port
from services.console.feed import Full, Hub, Limits, Page
from services.console.feed.page import frame
from services.console.gateway import Gateway
from services.console.pages.live import Fragments
from services.console.pages.templates import environment
from tests.console.test_api import served

pytestmark = pytest.mark.timeout(60)

QUICK = Limits(
    coalesce=timedelta(milliseconds=10), linger=timedelta(milliseconds=50), longest_backoff=timedelta(milliseconds=50),
    waiting_frames=20,
)  # fmt: skip
JOB, RUN = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
LATER = datetime.max.replace(tzinfo=UTC)


def job(state: str = "running", title: str = "A job") -> dict[str, Any]:
    latest = {
        "id": RUN,
        "state": state,
        "started_at": "2026-01-01T23:30:00Z",
        "percent": 1.0,
        "remaining_seconds": 90.0,
    }
    return {"id": JOB, "latest_run": latest, "next_slot_at": "2026-01-02T00:00:00Z", "settings": {"title": title}}


def body(**more: Any) -> dict[str, Any]:
    return {"job_id": JOB, "run_id": RUN, "attempt": 1, **more}


def progress(sequence: int, percent: float) -> dict[str, Any]:
    return body(progress={"attempt": 1, "sequence": sequence, "percent": percent, "remaining_seconds": 60.0})


class Services:
    """History's stream and the answers that the feed reads, as a test directs them."""

    def __init__(self) -> None:
        self.jobs: dict[str, Any] = {}
        self.executions: list[Any] = []
        self.refused: set[str] = set()
        self.away = False
        self.asked: Counter[str] = Counter()
        self.connected: asyncio.Queue[Stream] = asyncio.Queue()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        token = headers[b"authorization"].decode().removeprefix("Bearer ")
        path = scope["path"].removeprefix("/api/v1")
        self.asked[path] += 1
        if self.away:
            await answer(send, 503, {"type": "about:blank/unavailable", "detail": "Later."})
        elif token in self.refused:
            await answer(send, 401, {"type": "about:blank/unauthenticated", "detail": "No."})
        elif path == "/stream":
            stream = Stream(token, headers.get(b"last-event-id", b"").decode())
            self.connected.put_nowait(stream)
            await stream.serve(receive, send)
        elif path == "/executions":
            await answer(send, 200, {"items": self.executions, "next": None})
        elif path.removeprefix("/jobs/") in self.jobs:
            await answer(send, 200, self.jobs[path.removeprefix("/jobs/")])
        else:
            await answer(send, 404, {"type": "about:blank/not-found", "detail": "None."})


class Stream:
    """One connection to the stream."""

    def __init__(self, token: str, last_id: str) -> None:
        self.token = token
        self.last_id = last_id
        self.left = asyncio.Event()
        self._to_send: asyncio.Queue[bytes | None] = asyncio.Queue()

    def tell(self, position: int | None, kind: str, told: dict[str, Any]) -> None:
        named = "" if position is None else f"id: {position}\n"
        self._to_send.put_nowait(f"{named}event: {kind}\ndata: {json.dumps(told, ensure_ascii=False)}\n\n".encode())

    def end(self) -> None:
        self._to_send.put_nowait(None)

    async def serve(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"retry: 1\nid: 7\n\n", "more_body": True})

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left.set()
            self.end()

        watching = asyncio.create_task(watch())
        while (data := await self._to_send.get()) is not None:
            # In two, because networks do not keep messages together.
            for half in (data[: len(data) // 2], data[len(data) // 2 :]):
                await send({"type": "http.response.body", "body": half, "more_body": True})
        watching.cancel()
        with suppress(Exception):
            await send({"type": "http.response.body", "body": b""})


async def answer(send: Any, status: int, content: Any) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


class Reader:
    """What one page gets."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._chunks = page.chunks()
        self._waiting: list[tuple[str, str]] = []

    async def next(self) -> tuple[str, str]:
        while not self._waiting:
            async with asyncio.timeout(30):
                chunk = (await anext(self._chunks)).decode()
            for block in chunk.split("\n\n"):
                lines = [line.partition(": ") for line in block.split("\n") if line and not line.startswith(":")]
                if kind := "".join(value for name, _, value in lines if name == "event"):
                    self._waiting.append((kind, "\n".join(value for name, _, value in lines if name == "data")))
        return self._waiting.pop(0)

    async def until(self, kind: str, containing: str = "") -> str:
        while True:
            found, data = await self.next()
            if found == kind and containing in data:
                return data


@pytest.fixture
def services() -> Services:
    return Services()


@asynccontextmanager
async def hub_before(address: str, limits: Limits = QUICK) -> AsyncGenerator[Hub]:
    async with httpx.AsyncClient() as client:
        owners = dict.fromkeys(("stream", "jobs", "executions"), address)
        hub = Hub(Gateway(client, owners), Fragments(environment()), limits)
        running = asyncio.create_task(hub.run())
        await asyncio.sleep(0)
        try:
            yield hub
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def hub(services: Services) -> AsyncIterator[Hub]:
    async with served(services) as address, hub_before(address) as hub:
        yield hub


async def test_pages_of_a_tenant_share_a_connection_and_the_bytes(hub: Hub, services: Services) -> None:
    services.jobs[JOB] = job(title="One\u2028 <b>line</b>")
    pages = [Reader(hub.open("t", f"token-{n}", "UTC", LATER)) for n in range(3)]
    abroad = Reader(hub.open("t", "token-3", "Europe/Berlin", LATER))
    stream = await services.connected.get()
    stream.tell(8, "RunStarted", body(title="\u2028"))
    told = {await page.until("changed", "data-job-status") for page in pages}
    assert len(told) == 1
    (html,) = told
    assert f"/history/{RUN}" in html
    assert "In Progress" in html
    assert "00:30 CET" in await abroad.until("changed", "data-job-status")
    assert json.loads(await pages[0].until("runs"))["concerned"] == [JOB, RUN]
    assert services.asked["/stream"] == services.asked[f"/jobs/{JOB}"] == 1
    assert stream.token == "token-0"


async def test_ticks_come_from_the_event_and_never_go_back(hub: Hub, services: Services) -> None:
    services.jobs[JOB] = job()
    page = Reader(hub.open("t", "token", "UTC", LATER))
    stream = await services.connected.get()
    stream.tell(8, "RunStarted", body())
    await page.until("changed", "data-job-status")
    read = services.asked[f"/jobs/{JOB}"]
    stream.tell(None, "RunProgressed", progress(2, 40.0))
    assert "0 hr 1 min" in await page.until("changed", 'value="40.0"')
    stream.tell(None, "RunProgressed", progress(1, 20.0))
    stream.tell(None, "RunProgressed", progress(3, 60.0))
    assert 'value="20.0"' not in await page.until("changed", "data-progress")
    assert services.asked[f"/jobs/{JOB}"] == read
    services.jobs[JOB] = job("succeeded")
    stream.tell(9, "RunSucceeded", body())
    stream.tell(None, "RunProgressed", progress(4, 80.0))
    assert "data-ends" in await page.until("changed", "Finished")
    stream.tell(10, "JobUpdated", {"job_id": JOB})
    assert "<progress" not in await page.until("changed", "data-job-status")


async def test_who_comes_a_moment_later_gets_what_changed_before(hub: Hub, services: Services) -> None:
    services.jobs[JOB] = job()
    first = Reader(hub.open("t", "token", "UTC", LATER))
    stream = await services.connected.get()
    stream.tell(8, "RunStarted", body())
    await first.until("changed", "data-job-status")
    stream.tell(None, "RunProgressed", progress(2, 40.0))
    await first.until("changed", 'value="40.0"')
    late = Reader(hub.open("t", "token", "UTC", LATER))
    shown = await late.until("changed", "data-job-status")
    assert "In Progress" in shown
    assert shown.count('value="40.0"') == shown.count("<progress") > 0
    assert json.loads(await late.until("runs"))["concerned"] == [JOB, RUN]
    assert services.asked["/stream"] == 1


async def test_what_began_before_the_connection_is_read(hub: Hub, services: Services) -> None:
    services.jobs[JOB] = job("queued")
    at = {"attempt": 1, "sequence": 1, "percent": 33.0, "remaining_seconds": None}
    services.executions = [{"run_id": RUN, "job_id": JOB, "state": "running", "attempt": 1, "progress": at}]
    page = Reader(hub.open("t", "token", "UTC", LATER))
    assert json.loads(await page.until("runs"))["everything"]
    html = await page.until("changed", "data-job-status")
    assert 'value="33.0"' in html
    assert "In Progress" in html


async def test_a_stream_that_ends_is_taken_up_where_it_ended(hub: Hub, services: Services) -> None:
    services.jobs[JOB] = job()
    page = Reader(hub.open("t", "token", "UTC", LATER))
    stream = await services.connected.get()
    assert stream.last_id == ""
    stream.tell(8, "RunStarted", body())
    await page.until("changed", "data-job-status")
    stream.end()
    again = await services.connected.get()
    assert again.last_id == "8"
    services.jobs[JOB] = job("succeeded")
    again.tell(9, "RunSucceeded", body())
    assert "Finished" in await page.until("changed", "data-job-status")


async def test_pages_stay_and_are_told_while_history_is_away(services: Services) -> None:
    services.jobs[JOB] = job()
    port = free_port()
    async with hub_before(f"http://127.0.0.1:{port}") as hub:
        page = Reader(hub.open("t", "token", "UTC", LATER))
        await page.until("stale")
        late = Reader(hub.open("t", "token", "UTC", LATER))
        await late.until("stale")
        async with served(services, port):
            await page.until("fresh")
            stream = await services.connected.get()
            stream.tell(8, "RunStarted", body())
            await page.until("changed", "data-job-status")
            services.away = True
            stream.end()
            await page.until("stale")
        assert not page.page.ended.done()


async def test_a_silent_connection_is_given_up(services: Services) -> None:
    limits = replace(QUICK, silence=timedelta(seconds=1))
    async with served(services) as address, hub_before(address, limits) as hub:
        Reader(hub.open("t", "token", "UTC", LATER))
        first = await services.connected.get()
        assert (await services.connected.get()).last_id == "7"
        await first.left.wait()


async def test_when_a_token_ends_another_ones_goes_on(hub: Hub, services: Services) -> None:
    services.jobs[JOB] = job()
    ending, staying = hub.open("t", "ending", "UTC", LATER), Reader(hub.open("t", "staying", "UTC", LATER))
    stream = await services.connected.get()
    assert stream.token == "ending"
    services.refused.add("ending")
    stream.end()
    again = await services.connected.get()
    assert (again.token, again.last_id) == ("staying", "7")
    await ending.ended
    assert not staying.page.ended.done()
    again.tell(8, "RunStarted", body())
    await staying.until("changed", "data-job-status")


async def test_without_a_good_token_the_feed_waits_for_somebody(hub: Hub, services: Services) -> None:
    services.refused.add("bad")
    bad = hub.open("t", "bad", "UTC", LATER)
    await bad.ended
    Reader(hub.open("t", "good", "UTC", LATER))
    assert (await services.connected.get()).token == "good"


async def test_a_session_that_expires_ends_its_page(hub: Hub) -> None:
    page = hub.open("t", "token", "UTC", datetime.now(UTC) + timedelta(milliseconds=50))
    await page.ended


async def test_a_slow_page_is_let_go_and_the_others_are_not(hub: Hub, services: Services) -> None:
    services.jobs[JOB] = job()
    slow, quick = hub.open("t", "token", "UTC", LATER), Reader(hub.open("t", "token", "UTC", LATER))
    stream = await services.connected.get()
    stream.tell(8, "RunStarted", body())
    await quick.until("changed", "data-job-status")
    sequence = 0
    while not slow.ended.done():
        sequence += 1
        stream.tell(None, "RunProgressed", progress(sequence, 1.0))
        await quick.until("changed", "data-progress")
    assert sequence <= QUICK.waiting_frames
    assert not quick.page.ended.done()


async def test_tenants_hear_nothing_of_each_other(hub: Hub, services: Services) -> None:
    services.jobs[JOB] = job(title="canary")
    one, other = Reader(hub.open("one", "1", "UTC", LATER)), Reader(hub.open("other", "2", "UTC", LATER))
    first, second = await services.connected.get(), await services.connected.get()
    by_token = {stream.token: stream for stream in (first, second)}
    by_token["1"].tell(8, "RunStarted", body())
    await one.until("changed", "data-job-status")
    services.jobs["mine"] = {**job(title="mine"), "id": "mine", "latest_run": None}
    by_token["2"].tell(9, "JobUpdated", {"job_id": "mine"})
    heard = [await other.next() for _ in range(3)]
    assert [kind for kind, _ in heard] == ["runs", "changed", "runs"]
    assert "mine" in heard[1][1]
    for _, data in heard:
        assert JOB not in data
        assert RUN not in data


async def test_the_last_page_ends_the_connection_after_a_while(hub: Hub, services: Services) -> None:
    page = hub.open("t", "token", "UTC", LATER)
    stream = await services.connected.get()
    page.close()
    await stream.left.wait()


async def test_there_are_no_more_pages_than_allowed_and_none_at_a_stop(services: Services) -> None:
    async with served(services) as address:
        async with hub_before(address, replace(QUICK, pages=1)) as hub:
            page = hub.open("t", "token", "UTC", LATER)
            with pytest.raises(Full):
                hub.open("t", "token", "UTC", LATER)
        await page.ended
        with pytest.raises(Full):
            hub.open("t", "token", "UTC", LATER)


async def test_a_job_of_an_owner_that_lags_is_read_until_it_has_heard(hub: Hub, services: Services) -> None:
    services.jobs[JOB] = {**job(), "latest_run": None}
    page = Reader(hub.open("t", "token", "UTC", LATER))
    (await services.connected.get()).tell(8, "RunRequested", body())
    await page.until("changed", "Not run yet")
    services.jobs[JOB] = job()
    await page.until("changed", f"/history/{RUN}")


def test_data_of_several_lines_stays_one_event() -> None:
    assert frame("changed", "a\nb\u2028c\r\nd") == "event: changed\ndata: a\ndata: b\u2028c\ndata: d\n\n".encode()
