"""History: what runs, what ran, and what did not."""

import asyncio
import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
from playwright.async_api import Locator, Page, Route, expect

from tests.console.browser.conftest import People, Person
from tests.system.driver import Recipient, eventually, execute

PATIENT_MS = 30_000
HOSTILE = "<script>document.title='canary'</script><img src=x onerror=\"document.title='canary'\"> \u2028 " + "W" * 60


async def enter(people: People, role: str = "admin", **more: Any) -> Person:
    """Somebody of a new tenant that may export."""
    person = await people.enter(role, **more)
    token = person.stack.secrets.token(tenant=person.tenant, role="admin", subject="setup")
    async with httpx.AsyncClient(base_url=f"{person.stack.url}/api/v1", timeout=30) as client:
        pem = Recipient("reader").pem
        answer = await client.post("/certificates", content=pem, headers={"Authorization": f"Bearer {token}"})
        assert answer.is_success, answer.text
    return person


async def submit(person: Person, title: str, type_: str = "slow", **settings: Any) -> str:
    """A job over the laboratory that runs when it is told to; its id."""
    job = {
        "title": title, "source": "lab", "type": type_, "schedule": {"kind": "monthly", "day": 1, "at": "00:00"},
        "timeframe": {"kind": "all"}, "retry": {"attempts": 1}, **settings,
    }  # fmt: skip
    return str((await person.api("POST", "/jobs", job))["id"])


async def run(person: Person, job_id: str) -> str:
    return str((await person.api("POST", f"/jobs/{job_id}/run"))["run_id"])


def state_of(where: Page | Locator) -> Locator:
    return where.locator(".state").first


async def percent(where: Page | Locator) -> float:
    return float(await where.locator("progress").get_attribute("value") or 0)


async def seconds_left(where: Page | Locator) -> int:
    tip = where.locator(".tip", has_text=re.compile(r"time: \d+ s"))
    found = re.search(r"time: (\d+) s", await tip.text_content(timeout=PATIENT_MS) or "")
    assert found is not None
    return int(found[1])


async def test_a_bar_moves_and_its_time_falls_and_what_has_ended_says_so_without_a_reload(people: People) -> None:
    person = await enter(people)
    job_id = await submit(person, "Watched")
    history = await person.context.new_page()
    await history.goto(f"{person.stack.url}/history")
    await expect(history.get_by_role("heading", name="No runs yet")).to_be_visible()
    page = await person.open("/jobs")
    for shown in (page, history):
        await shown.evaluate("window.stays = true")
    job = page.locator(f"#job-{job_id}")
    await expect(job).to_contain_text("Not run yet")

    await run(person, job_id)

    await expect(state_of(job)).to_have_text("In Progress", timeout=PATIENT_MS)
    bar = job.locator(".progress")
    await bar.focus()
    row = history.locator("tbody tr")
    await expect(state_of(row)).to_have_text("In Progress", timeout=PATIENT_MS)
    first, left = await percent(job), await seconds_left(job)

    async def moved() -> bool:
        return await percent(job) > first and await seconds_left(job) < left

    await eventually(moved, what="a greater part and less time to go")
    # Whoever reads the tip by keyboard still does.
    await expect(bar).to_be_focused()
    await expect(row.locator("progress")).not_to_have_attribute("value", "0.0")
    await expect(state_of(job)).to_have_text("Finished", timeout=PATIENT_MS)
    await expect(job.locator("progress")).to_have_count(0)
    await expect(page.locator("#announcements")).to_have_text("Watched: Finished")
    await expect(state_of(row)).to_have_text("Finished", timeout=PATIENT_MS)
    await expect(row.locator(".col-rows")).to_have_text("300", timeout=PATIENT_MS)
    await expect(row.locator(".col-files")).to_contain_text("0001-of-0001")

    # The next start moves with the schedule, whoever changes it.
    started = job.locator("[data-job-started]")
    await expect(started).to_contain_text(f"{datetime.now(UTC).year}")
    read = await person.api("GET", f"/jobs/{job_id}")
    due = await job.locator("[data-job-next]").text_content()
    changed = {**read["settings"], "schedule": {"kind": "monthly", "day": 28, "at": "12:34"}}
    await person.api("PUT", f"/jobs/{job_id}", changed, headers={"If-Match": f'"{read["version"]}"'})
    await expect(job.locator("[data-job-next]")).to_contain_text("-28 12:34:00", timeout=PATIENT_MS)
    assert due != await job.locator("[data-job-next]").text_content()
    for shown in (page, history):
        assert await shown.evaluate("window.stays")
    # Seldom one has all that a list of runs shows.
    await history.bring_to_front()
    person.page = history
    await person.find_no_barriers()


async def test_a_run_is_cancelled_by_keyboard_and_one_that_failed_is_retried(people: People) -> None:
    person = await enter(people, "operator", theme="dark")
    admin = await people.enter(tenant=person.tenant)
    slow, broken = await submit(admin, HOSTILE, "long"), await submit(admin, "Broken", "broken")
    cancelled, failed = await run(person, slow), await run(person, broken)
    page = await person.open("/history")
    row = page.locator(f"#run-{cancelled}")
    await expect(state_of(row)).to_have_text("In Progress", timeout=PATIENT_MS)
    await row.get_by_role("link", name="Cancel").focus()
    await page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_text("Keep it running")).to_be_focused()
    await person.find_no_barriers()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(dialog).to_be_hidden()
    await expect(page.locator("#notices")).to_contain_text("asked to end")
    await expect(state_of(row)).to_have_text("Cancelled", timeout=PATIENT_MS)
    assert await page.title() != "canary"

    row = page.locator(f"#run-{failed}")
    await expect(state_of(row)).to_have_text("Failed", timeout=PATIENT_MS)
    await expect(row.locator(".why")).to_contain_text("division by zero", timeout=PATIENT_MS)
    await row.get_by_role("link", name="Broken", exact=True).click()
    await expect(page.get_by_role("heading", name="Why it failed")).to_be_visible()
    await expect(page.locator(".trouble")).to_contain_text("Ask the operator to check")
    await expect(page.locator(".timeline")).to_contain_text("Attempt 1 started on")
    await expect(page.get_by_role("region", name="Attempts")).to_contain_text("division by zero")
    await person.find_no_barriers()
    await page.get_by_role("link", name="Retry").click()
    await dialog.get_by_role("button", name="Retry").click()
    again = page.locator("#notices a")
    await expect(again).to_have_text("a new run")
    new = str(await again.get_attribute("href"))
    row = (await person.open("/history")).locator(f"#run-{new.rpartition('/')[2]}")
    await expect(state_of(row)).to_have_text("Failed", timeout=PATIENT_MS)
    page = await person.open(new)
    await page.get_by_role("link", name="an earlier run").click()
    await page.wait_for_url(f"**/history/{failed}")

    # What never began is nobody's run any more; a hostile title stays text.
    page = await person.open(f"/history/{cancelled}")
    await expect(page.get_by_role("heading", level=1)).to_contain_text("<script>")
    await expect(page.locator(".timeline")).to_contain_text(f"Cancelled by operator@{person.tenant}")
    assert await page.title() != "canary"


async def test_the_list_is_searched_sorted_and_arranged(people: People) -> None:
    person = await enter(people, width=390)
    jobs = [
        await submit(person, "Broken by design", "broken", labels={"team": "a"}),
        await submit(person, "Broken too", "broken"),
    ]
    for job_id in jobs:
        await run(person, job_id)
    page = await person.open("/history")
    rows = page.locator("#runs tbody tr")
    await expect(rows).to_have_count(2, timeout=PATIENT_MS)
    await expect(page.locator("#runs .state-failed")).to_have_count(2, timeout=PATIENT_MS)
    await person.find_no_barriers()
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390

    await page.set_viewport_size({"width": 1440, "height": 900})
    await page.get_by_role("searchbox", name="Title").fill("DESIGN")
    await expect(rows).to_have_count(1)
    await expect(page).to_have_url(re.compile("text=DESIGN"))
    await page.get_by_role("link", name="Show all runs").click()
    await expect(rows).to_have_count(2)
    await page.wait_for_load_state()
    await page.get_by_role("checkbox", name="Finished").check()
    await expect(page.get_by_role("heading", name="No run matches")).to_be_visible()
    await page.get_by_role("checkbox", name="Failed").check()
    await expect(rows).to_have_count(2)
    await expect(page).to_have_url(re.compile("state=succeeded.*state=failed"))
    for column in ("Title", "Started", "Duration", "Status", "Size"):
        await page.get_by_role("columnheader", name=column).get_by_role("link").click()
        await expect(page.get_by_role("columnheader", name=column)).to_have_attribute("aria-sort", "ascending")
    for order in ("ascending", "descending"):
        await page.get_by_role("columnheader", name="Title").get_by_role("link").click()
        await expect(page.get_by_role("columnheader", name="Title")).to_have_attribute("aria-sort", order)
    await expect(rows.first).to_contain_text("Broken too")

    page = await person.open(f"/history?job_id={jobs[0]}")
    await expect(page.locator(".chip")).to_contain_text("Broken by design")
    await expect(rows).to_have_count(1)
    page = await person.open("/history?label=team:a&started_from=2020-01-01T00:00&started_to=2099-01-01T00:00:00Z")
    await expect(rows).to_have_count(1)
    await expect(page.get_by_label("Started from, UTC")).to_have_value("2020-01-01T00:00")
    page = await person.open("/history?sort=colour")
    await expect(page.get_by_role("heading", name="Not understood")).to_be_visible()

    # Columns by keyboard; they stay as they were chosen.
    page = await person.open("/history")
    await page.locator(".columns summary").focus()
    await page.keyboard.press("Enter")
    box = page.get_by_role("checkbox", name="Source")
    await box.focus()
    await page.keyboard.press("Space")
    await page.get_by_role("checkbox", name="Requested").check()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("columnheader", name="Source")).to_be_hidden()
    await page.reload()
    await expect(page.get_by_role("columnheader", name="Source")).to_be_hidden()
    await expect(page.get_by_role("columnheader", name="Requested")).to_be_visible()


async def test_a_column_stays_hidden_when_a_list_comes_that_was_asked_for_before(people: People) -> None:
    person = await enter(people)
    await run(person, await submit(person, "First", "broken"))
    page = await person.open("/history")
    asked, chosen = asyncio.Event(), asyncio.Event()

    async def hold_back(route: Route) -> None:
        if "hx-request" not in route.request.headers:
            await route.continue_()
            return
        answer = await route.fetch()
        asked.set()
        await chosen.wait()
        await route.fulfill(response=answer)

    await page.route("**/history", hold_back)
    await run(person, await submit(person, "Second", "broken"))
    await asyncio.wait_for(asked.wait(), PATIENT_MS / 1000)
    await page.locator(".columns summary").click()
    await page.get_by_role("checkbox", name="Source").uncheck()
    await expect(page.get_by_role("columnheader", name="Source")).to_be_hidden()
    chosen.set()
    await expect(page.locator("tbody tr")).to_have_count(2, timeout=PATIENT_MS)
    await expect(page.get_by_role("columnheader", name="Source")).to_be_hidden()
    await expect(page.get_by_role("checkbox", name="Source")).not_to_be_checked()


async def test_a_viewer_sees_and_another_tenant_does_not(people: People) -> None:
    admin = await enter(people)
    run_id = await run(admin, await submit(admin, "The canary", "broken"))
    viewer, stranger = await people.enter("viewer", tenant=admin.tenant), await people.enter()
    watching = await stranger.context.new_page()
    await watching.goto(f"{stranger.stack.url}/history")
    await watching.evaluate(
        """window.heard = []; const live = new EventSource("/live");
        for (const kind of ["changed", "runs"]) live.addEventListener(kind, ({data}) => window.heard.push(data));"""
    )
    page = await viewer.open("/history")
    row = page.locator(f"#run-{run_id}")
    await expect(state_of(row)).to_have_text("Failed", timeout=PATIENT_MS)
    await expect(row.locator(".row-actions a")).to_have_count(0)
    page = await viewer.open(f"/history/{run_id}")
    await expect(page.get_by_role("heading", name="Why it failed")).to_be_visible()
    await expect(page.locator(".run-buttons a")).to_have_count(0)
    refused = await page.request.post(
        f"{viewer.stack.url}/history/{run_id}/retry", headers={"Origin": viewer.stack.url}, max_redirects=0
    )
    assert refused.status == 403

    for path in (f"/history/{run_id}", f"/history/{run_id}/cancel", "/history?text=canary", "/history/slots"):
        await stranger.open(path)
        await expect(stranger.page.locator("main")).not_to_contain_text("The canary")
    page = await stranger.open("/history")
    own = await enter_again(stranger)
    await expect(state_of(page.locator(f"#run-{own}"))).to_have_text("Failed", timeout=PATIENT_MS)
    await watching.wait_for_function("id => window.heard.some(told => told.includes(id))", arg=own)
    heard = "\n".join(await watching.evaluate("window.heard"))
    assert run_id not in heard
    assert "The canary" not in heard


async def enter_again(person: Person) -> str:
    """The stranger's own failing run, whose arrival says that everything before it would have arrived, too."""
    token = {"Authorization": f"Bearer {person.token}"}
    async with httpx.AsyncClient(base_url=f"{person.stack.url}/api/v1", timeout=30) as client:
        await client.post("/certificates", content=Recipient("stranger").pem, headers=token)
    return await run(person, await submit(person, "Mine", "broken"))


async def test_what_did_not_run_is_explained_and_a_gap_leads_to_its_export(people: People) -> None:
    person = await enter(people)
    daily = {"schedule": {"kind": "daily", "at": "02:30"}, "timeframe": {"kind": "last", "unit": "day"}}
    job_id = await submit(person, "Daily", "slow", **daily)
    await person.api("POST", f"/jobs/{job_id}/suspend")
    await execute(
        person.stack, f"UPDATE job_api.jobs SET stopped_at = now() - interval '5 days' WHERE id = '{UUID(job_id)}'"
    )
    await person.api("POST", f"/jobs/{job_id}/resume", {"missed": "none"})
    page = await person.open(f"/history/slots?job_id={job_id}")
    row = page.locator("tbody tr", has_text="Missed")
    await expect(row).to_contain_text("The job was suspended.", timeout=PATIENT_MS)
    await expect(row).to_contain_text("more after it")
    await person.find_no_barriers()
    await page.get_by_label("Outcome").select_option("skipped")
    await expect(page.get_by_role("heading", name="No slot matches")).to_be_visible()

    month = "2026-01"
    interval = {"from": "2026-01-05T00:00:00Z", "to": "2026-01-07T00:00:00Z", "reprocess": "all"}
    await person.api("POST", f"/jobs/{job_id}/backfill", interval)
    page = await person.open(f"/history/coverage/{job_id}?month={month}")
    day = page.locator("#day-2026-01-06")
    await expect(day.locator(".is-exported")).to_have_text("Exported", timeout=PATIENT_MS)
    await expect(page.locator("#day-2026-01-07 .is-missing")).to_have_text("Missing")
    await person.find_no_barriers()
    gaps = page.locator("section", has=page.get_by_role("heading", name="Gaps")).locator("tbody tr")
    await expect(gaps).to_have_count(2)
    export = gaps.last.get_by_role("link", name="Export the gap")
    assert await export.get_attribute("href") == (
        f"/jobs/{job_id}/backfill?from=2026-01-07T00%3A00%3A00Z&to=2026-02-01T00%3A00%3A00Z"
    )
    await page.get_by_text("Everything as a list").click()
    await expect(page.get_by_role("region", name="Everything as a list")).to_contain_text("Exported")
    await page.get_by_role("link", name="December 2025").click()
    await expect(page.get_by_role("heading", name="December 2025")).to_be_visible()
    await page.get_by_role("link", name="January 2026").click()
    await page.locator("#day-2026-01-06 a").click()
    await expect(page.locator("#runs tbody tr")).to_have_count(1)
    await page.set_viewport_size({"width": 390, "height": 844})
    page = await person.open(f"/history/coverage/{job_id}?month={month}")
    await person.find_no_barriers()
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390
