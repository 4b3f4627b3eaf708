"""What the pages of one tenant hear: one connection to history, and what is read once for all of them."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import httpx
import orjson
from httpx_sse import EventSource

from services.console.domain.news import Changes, News, Recent, Standing
from services.console.feed.page import Limits, Page, frame, happened
from services.console.gateway import Away, Gateway, Refused
from shared.observability import log

JOBS_AT_ONCE: Final = 5
JOBS_EACH_TIME: Final = 20
"""Read and shown at a time; when more change, the others follow."""
ASKED_AGAIN: Final = 8
"""How often a job is read once more because its owner has not heard of its newest run; after some 10 s."""
JUST_ENDED: Final = timedelta(minutes=1)
RECENTLY_SECONDS: Final = 30.0
JUST_NOW_SECONDS: Final = 10.0
"""From when a page is made to when it hears of changes; of what happened meanwhile it is told then."""
REFUSED: Final = frozenset({401, 403})


class Views(Protocol):
    """How changes are shown, as HTML; `zone` is a time zone's name."""

    def jobs(self, jobs: Iterable[Mapping[str, Any]], zone: str) -> str:
        """Jobs as lists show them."""
        ...

    def runs(self, runs: Iterable[Standing]) -> str:
        """The states of runs."""
        ...

    def progress(self, runs: Iterable[Standing]) -> str:
        """How far runs are."""
        ...


class Channel:
    """What the pages of one tenant hear."""

    def __init__(
        self,
        tenant: str,
        gateway: Gateway,
        views: Views,
        limits: Limits,
        abandon: Callable[["Channel"], None],
    ) -> None:
        self.tenant = tenant
        self.task: asyncio.Task[None] | None = None
        self.pages: set[Page] = set()
        self._gateway = gateway
        self._views = views
        self._limits = limits
        self._abandon = abandon
        self._token: str | None = None
        self._last_id: str | None = None
        self._stale = False
        self._behind = False
        """Whether events may have been missed, so that what is in progress has to be read."""
        self._news = News()
        self._something = asyncio.Event()
        self._somebody = asyncio.Event()
        self._tries: dict[str, int] = {}
        self._recent_jobs: Recent[str, tuple[float, dict[str, Any]]] = Recent(50)
        self._recent_runs: Recent[str, tuple[float, Standing]] = Recent(200)
        self._concerned: Recent[str, float] = Recent(500)
        """The jobs and runs to which something happened, and when."""

    # --- pages ---

    def join(self, page: Page) -> None:
        """Offer `page` what changed lately, and from now on what changes."""
        self.pages.add(page)
        self._token = self._token or page.token
        self._somebody.set()
        since = time.monotonic() - RECENTLY_SECONDS
        # As they stand by now: ticks came after what is remembered, and the page may have been made after them.
        jobs = [self._news.completed(job) for at, job in self._recent_jobs.values() if at >= since]
        runs = [self._news.newest(standing) for at, standing in self._recent_runs.values() if at >= since]
        views = self._views
        if jobs or runs:
            page.offer(frame("changed", views.runs(runs) + views.jobs(jobs, page.zone)))
        just_now = time.monotonic() - JUST_NOW_SECONDS
        if concerned := [thing for thing, at in self._concerned.items() if at >= just_now]:
            page.offer(happened(concerned))
        if self._stale:
            page.offer(frame("stale"))

    def leave(self, page: Page) -> None:
        """Offer `page` nothing any more. Its token is used until another one's is needed, or nobody is left."""
        self.pages.discard(page)

    def _hand_on(self, data: bytes) -> None:
        for page in list(self.pages):
            page.offer(data)

    def _show(self, changes: Changes, jobs: Sequence[dict[str, Any]]) -> None:
        now = time.monotonic()
        for job in jobs:
            self._recent_jobs[job["id"]] = now, job
        for standing in changes.runs:
            self._recent_runs[standing.run_id] = now, standing
        views = self._views
        everywhere = views.runs(changes.runs) + views.progress(changes.ticks)
        shown = {
            zone: frame("changed", html)
            for zone in {page.zone for page in self.pages}
            if (html := everywhere + (views.jobs(jobs, zone) if jobs else ""))
        }
        concerned = [*changes.jobs, *(standing.run_id for standing in changes.runs)]
        for thing in concerned:
            self._concerned[thing] = now
        told = happened(concerned) if concerned else None
        for page in list(self.pages):
            if (data := shown.get(page.zone)) is not None:
                page.offer(data)
            if told is not None:
                page.offer(told)

    # --- what happened ---

    async def follow(self) -> None:
        """Listen and show until cancelled. What goes wrong for one tenant is no end for the others."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen())
                tasks.create_task(self._tell())
        except Exception as error:
            log.error("the live feed failed", tenant=self.tenant, exc_info=error)
            self._abandon(self)

    async def _listen(self) -> None:
        """Stay connected with history."""
        failures = 0
        while True:
            token = await self._some_token()
            try:
                answer = await self._gateway.stream(
                    token,
                    "/stream",
                    {} if self._last_id is None else {"Last-Event-ID": self._last_id},
                    silence=self._limits.silence,
                )
            except Refused as error:
                if error.status in REFUSED:
                    self._retire(token)
                    continue
                log.warning("the live feed was refused", tenant=self.tenant, error=str(error))
                failures += 1
            except Away:
                failures += 1
            else:
                failures = 0 if await self._heard_something(answer) else failures + 1
            if failures:
                self._set_stale(True)
            await asyncio.sleep(self._backoff(failures))

    def _backoff(self, failures: int) -> float:
        """Seconds until the next try: none after an ordinary end, as of a token, then up to the longest and a bit."""
        longest = self._limits.longest_backoff.total_seconds()
        return min(longest, 0.25 * 2**failures) * random.uniform(0.8, 1.2) if failures else 0.0

    async def _heard_something(self, answer: httpx.Response) -> bool:
        """Take in a connection until it ends; says whether it was any good."""
        good = False
        try:
            async for told in EventSource(answer).aiter_sse():
                if not good:
                    good = True
                    if self._last_id is None:
                        # What happened between the making of the pages and now, nobody tells.
                        self._behind = True
                        self._hand_on(happened([], everything=True))
                    self._set_stale(False)
                self._last_id = told.id or self._last_id
                if (told.data and self._news.hear(told.event, orjson.loads(told.data))) or self._behind:
                    self._something.set()
        except httpx.TransportError as error:
            log.info("the live feed broke off", tenant=self.tenant, error=repr(error))
        finally:
            await answer.aclose()
        return good

    async def _tell(self) -> None:
        """Show what has changed, a few times a second at most."""
        while True:
            await self._something.wait()
            await asyncio.sleep(self._limits.coalesce.total_seconds())
            self._something.clear()
            if self._behind:
                await self._catch_up()
            changes = self._news.take(JOBS_EACH_TIME)
            jobs = [self._news.completed(job) for job in await self._read(changes.jobs)]
            if changes:
                self._show(changes, jobs)
            if self._news.waiting:
                self._something.set()

    async def _catch_up(self) -> None:
        """Read what is in progress and what has just ended: of what happened before now there are no events."""
        just_now = (datetime.now(UTC) - JUST_ENDED).isoformat()
        token = await self._some_token()
        try:
            for query in ({"state": ["requested", "queued", "running"]}, {"finished_from": just_now}):
                found = await self._gateway.get(token, "/executions", {**query, "limit": 100})
                for execution in found["items"]:
                    self._news.read(execution)
        except (Away, Refused) as error:
            self._not_read(token, error, [])
        else:
            self._behind = False

    async def _read(self, jobs: list[str]) -> list[Any]:
        """The jobs as they are now; those that can't be read now, or whose owner is behind, are read again later."""
        if not jobs:
            return []
        token = await self._some_token()
        few = asyncio.Semaphore(JOBS_AT_ONCE)

        async def one(job_id: str) -> Any:
            async with few:
                return await self._gateway.get(token, f"/jobs/{job_id}")

        found: list[Any] = []
        for job_id, job in zip(jobs, await asyncio.gather(*map(one, jobs), return_exceptions=True), strict=True):
            if isinstance(job, Refused) and job.status == 404:
                continue
            if isinstance(job, Away | Refused):
                self._not_read(token, job, [job_id])
            elif isinstance(job, BaseException):
                raise job
            else:
                found.append(job)
                self._ask_again_if_behind(job)
        return found

    def _ask_again_if_behind(self, job: Mapping[str, Any]) -> None:
        tries = self._tries.pop(job["id"], 0)
        if self._news.is_behind(job) and tries < ASKED_AGAIN:
            self._tries[job["id"]] = tries + 1
            self._later(0.1 * 2**tries if tries < 5 else 2.0, [job["id"]])

    def _not_read(self, token: str, error: Exception, jobs: list[str]) -> None:
        if isinstance(error, Refused) and error.status in REFUSED:
            self._retire(token)
        self._later(1.0, jobs)

    def _later(self, seconds: float, jobs: list[str]) -> None:
        def again() -> None:
            self._news.again(jobs)
            self._something.set()

        asyncio.get_running_loop().call_later(seconds, again)

    # --- whose name is used ---

    async def _some_token(self) -> str:
        """The token of somebody who looks; waits until there is one."""
        while self._token is None:
            self._somebody.clear()
            await self._somebody.wait()
        return self._token

    def _retire(self, token: str) -> None:
        """Use another one's token, and let the pages of this one go: it is good for nothing any more."""
        if self._token == token:
            self._token = next((page.token for page in self.pages if page.token != token), None)
        for page in list(self.pages):
            if page.token == token:
                page.end()
                self.leave(page)

    def _set_stale(self, stale: bool) -> None:
        if stale != self._stale:
            self._stale = stale
            self._hand_on(frame("stale" if stale else "fresh"))
