"""What people and programs do all day, a hundred times as fast; the number of jobs stays the same."""

import asyncio
import contextlib
import shutil
import sys
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import timedelta
from random import Random
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from shared.clock import utc_text
from tests.soak.world import World
from tests.system.driver import JOB, Row, Tenant

PAUSE_SECONDS: Final = 0.4
"""Between two things that one tenant does."""
PAGES: Final = 4
"""Open pages of each tenant."""
PAGE_SECONDS: Final = 60
"""After which a page is closed and another one opened, at most."""
COMMAND_LINE_SECONDS: Final = 15
MOST_JOBS: Final = 12
"""Of a tenant; who has more deletes one."""
EVERY_MINUTE: Final = {"kind": "cron", "expression": "* * * * *"}
"""The fastest schedule there is."""

RECURRING: Final[list[Row]] = [
    {"title": "As JSON Lines", "type": "contact", "schedule": EVERY_MINUTE, "start": None},
    {"title": "As CSV", "type": "contact", "schedule": EVERY_MINUTE, "start": None, "format": "csv", "overlap": "skip"},
    {"title": "For S/MIME", "type": "contact", "schedule": EVERY_MINUTE, "start": None, "encryption": "smime"},
    {"title": "Slowly", "source": "lab", "type": "slow", "schedule": EVERY_MINUTE, "start": None,
     "split_bytes": 64 * 1024, "overlap": "buffer_one"},
]  # fmt: skip
HOURS: Final[Row] = {
    "title": "By the hour", "type": "contact", "start": None, "schedule": {"kind": "hourly", "every": 1},
    "timeframe": {"kind": "last", "unit": "hour"},
}  # fmt: skip


class Load:
    """Everything that is done to the stack, until it is told to stop."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._random = Random(seed)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Go on while inside."""
        parts = [self._person(who) for who in (*self._world.tenants, self._world.lapsed)]
        parts += [self._page(who) for who in self._world.tenants for _ in range(PAGES)]
        parts += [self._downloads(who) for who in self._world.tenants] + [self._command_line(self._world.tenants[0])]
        tasks = [asyncio.create_task(part) for part in parts]
        ended = asyncio.gather(*tasks)
        try:
            yield
            if ended.done():
                ended.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(ended, return_exceptions=True)

    # --- people ------------------------------------------------------------------------------------------------

    async def _person(self, who: Tenant) -> None:
        for wanted in [*RECURRING, HOURS] if who is not self._world.lapsed else RECURRING[:1]:
            while not await self._send(who, "POST", "/jobs", json={**JOB, **wanted}):
                await asyncio.sleep(PAUSE_SECONDS)
        deeds: list[Callable[[Tenant], Awaitable[object]]] = [
            self._submit, self._submit, self._run_now, self._run_now, self._backfill, self._cancel, self._retry,
            self._edit, self._suspend, self._resume, self._resume, self._delete_job, self._delete_file, self._look,
        ]  # fmt: skip
        while True:
            try:
                await self._random.choice(deeds)(who)
            except httpx.TransportError:
                self._world.count("requests broken off")
            await asyncio.sleep(self._random.uniform(0, 2 * PAUSE_SECONDS))

    async def _submit(self, who: Tenant) -> None:
        slow = {"source": "lab", "type": "slow", "split_bytes": 65536}
        kind = slow if self._random.random() < 0.2 else {"type": "contact"}
        if len(await self._jobs(who)) < MOST_JOBS:
            await self._send(who, "POST", "/jobs", json={**JOB, **kind, "title": "Once"})

    async def _run_now(self, who: Tenant) -> None:
        if job := await self._some_job(who):
            await self._send(who, "POST", f"/jobs/{job['id']}/run")

    async def _backfill(self, who: Tenant) -> None:
        for job in await self._jobs(who):
            if job["settings"]["title"] == HOURS["title"]:
                begin = utc_text(self._world.beginning - timedelta(hours=self._random.randint(2, 12)))
                wanted = {
                    "from": begin,
                    "to": utc_text(self._world.beginning),
                    "reprocess": "missing",
                    "max_parallel": 2,
                }
                await self._send(who, "POST", f"/jobs/{job['id']}/backfill", json=wanted)

    async def _cancel(self, who: Tenant) -> None:
        if (job := await self._some_job(who)) and job["latest_run"]:
            await self._send(who, "POST", f"/runs/{job['latest_run']['id']}/cancel")

    async def _retry(self, who: Tenant) -> None:
        if (job := await self._some_job(who)) and job["latest_run"]:
            await self._send(who, "POST", f"/runs/{job['latest_run']['id']}/retry")

    async def _edit(self, who: Tenant) -> None:
        if (job := await self._some_job(who)) and job["settings"]["schedule"]["kind"] != "once":
            settings = {**job["settings"], "description": f"Edited {self._random.random()}"}
            await self._send(who, "PUT", f"/jobs/{job['id']}", json=settings, headers=_match(job))

    async def _suspend(self, who: Tenant) -> None:
        if job := await self._some_job(who):
            await self._send(who, "POST", f"/jobs/{job['id']}/suspend")

    async def _resume(self, who: Tenant) -> None:
        for job in await self._jobs(who):
            if job["state"] == "suspended" and job["suspended_reason"] != "one_time":
                missed = {"missed": self._random.choice(["none", "latest", "all"])}
                await self._send(who, "POST", f"/jobs/{job['id']}/resume", json=missed)

    async def _delete_job(self, who: Tenant) -> None:
        for job in await self._jobs(who):
            if job["suspended_reason"] == "one_time":
                await self._send(who, "DELETE", f"/jobs/{job['id']}", headers=_match(job))

    async def _delete_file(self, who: Tenant) -> None:
        answer = await who.api.get("/artifacts", params={"limit": 50, "available": "true"})
        if answer.status_code == 200 and (files := answer.json()["items"]):
            file = self._random.choice(files)
            await self._send(who, "DELETE", f"/files/{file['artifact_id']}")

    async def _look(self, who: Tenant) -> None:
        for path in ("/executions", "/artifacts", "/slots", "/statistics", "/audit"):
            await self._note(await who.api.get(path))

    async def _jobs(self, who: Tenant) -> list[Row]:
        answer = await who.api.get("/jobs", params={"limit": 100})
        return answer.json()["items"] if answer.status_code == 200 else []

    async def _some_job(self, who: Tenant) -> Row | None:
        found = await self._jobs(who)
        return self._random.choice(found) if found else None

    async def _send(self, who: Tenant, method: str, path: str, **sent: Any) -> bool:
        try:
            return await self._note(await who.api.request(method, path, **sent))
        except httpx.TransportError:
            self._world.count("requests broken off")
            return False

    async def _note(self, answer: httpx.Response) -> bool:
        """Count an answer; away, in conflict or gone are answers, too."""
        status = answer.status_code
        self._world.count(f"answers {status}")
        if status not in (200, 201, 202, 204, 404, 409, 410, 412, 503):
            self._world.wrong.append(f"{answer.request.method} {answer.request.url.path}: {status} {answer.text[:300]}")
        return answer.is_success

    # --- pages -------------------------------------------------------------------------------------------------

    async def _page(self, who: Tenant) -> None:
        """A browser with an open page, which comes back whenever it loses its live updates."""
        while True:
            with contextlib.suppress(OSError, httpx.TransportError, asyncio.IncompleteReadError, TimeoutError):
                async with asyncio.timeout(self._random.uniform(1, PAGE_SECONDS)):
                    await self._follow(who)
            await asyncio.sleep(self._random.uniform(0.5, 2))

    async def _follow(self, who: Tenant) -> None:
        url = self._world.stack.url
        token = who.api.headers["Authorization"].removeprefix("Bearer ")
        async with httpx.AsyncClient(base_url=url, headers={"Origin": url}) as client:
            signed_in = await client.post("/sign-in", data={"token": token})
            await client.get("/")
        cookies = "; ".join(f"{name}={value}" for name, value in signed_in.cookies.items())
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            writer.write(f"GET /live HTTP/1.1\r\nHost: {parts.netloc}\r\nCookie: {cookies}\r\n\r\n".encode())
            while chunk := await reader.read(65536):
                self._world.count("bytes of live updates", len(chunk))
        finally:
            writer.close()
            self._world.count("pages closed")

    # --- recipients --------------------------------------------------------------------------------------------

    async def _downloads(self, who: Tenant) -> None:
        """Somebody who fetches runs, checks every signature and hash, and decrypts them."""
        while True:
            await asyncio.sleep(self._random.uniform(1, 4))
            try:
                if execution := await self._fresh(who):
                    await who.download(execution)
                    self._world.count("runs downloaded and verified")
            except httpx.TransportError:
                self._world.count("downloads broken off")
            except AssertionError as error:
                # Files are deleted and manifests forgotten while they are fetched.
                if not any(word in str(error) for word in ("artifact-expired", "not-found", "not within")):
                    self._world.wrong.append(f"a download is wrong:\n{traceback.format_exc(limit=-3)}")

    async def _fresh(self, who: Tenant) -> Row | None:
        """A run that succeeded lately, made for a recipient of whom we have the key and in the profile we open."""
        answer = await who.api.get("/executions", params={"state": "succeeded", "limit": 10})
        found = answer.json()["items"] if answer.status_code == 200 else []
        fitting = [e for e in found if e["title"] in ("Once", "As JSON Lines", "Slowly")]
        return self._random.choice(fitting) if fitting else None

    async def _command_line(self, who: Tenant) -> None:
        """`cdds artifacts fetch` and `verify`, as a program of a customer calls them."""
        folder = self._world.folder / "fetched"
        token = who.api.headers["Authorization"].removeprefix("Bearer ")
        connection = ["--url", self._world.stack.url, "--token", token]
        while True:
            await asyncio.sleep(COMMAND_LINE_SECONDS)
            try:
                execution = await self._fresh(who)
            except httpx.TransportError:
                continue
            if execution is None:
                continue
            code = await _cdds("artifacts", "fetch", "--run", execution["run_id"], "--into", str(folder), *connection)
            if code == 0 and await asyncio.to_thread(lambda: list(folder.glob("*.manifest.json"))):
                code = await _cdds("artifacts", "verify", str(folder))
            self._world.count(f"cdds artifacts fetch, verify: exit code {code}")
            if code == 3:
                self._world.wrong.append(f"cdds finds run {execution['run_id']} incomplete or altered: see {folder}")
                return
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _match(job: Row) -> dict[str, str]:
    return {"If-Match": f'"{job["version"]}"'}


async def _cdds(*arguments: str) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli", *arguments,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
