"""The list of jobs: what it shows, its filters and orders, its switches and its toolbar."""

from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.console.browser.conftest import People, Person
from tests.console.hostile import HOSTILE
from tests.system.driver import Recipient, execute

DAILY: dict[str, Any] = {
    "title": "Nightly contacts",
    "source": "ucs",
    "type": "contact",
    "schedule": {"kind": "daily", "at": "02:30"},
    "timeframe": {"kind": "last", "unit": "day"},
}


async def submit(person: Person, **settings: Any) -> dict[str, Any]:
    """A job, and the certificate that it needs."""
    if not (await person.api("GET", "/certificates"))["items"]:
        await person.api("POST", "/certificates", content=Recipient(person.tenant).pem)
    answer: dict[str, Any] = await person.api("POST", "/jobs", {**DAILY, **settings})
    return answer


def row(page: Page, title: str) -> Any:
    return page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=title))


async def test_an_empty_list_leads_to_the_first_job(people: People) -> None:
    admin = await people.enter()
    page = await admin.open("/jobs")
    await expect(page.get_by_role("link", name="Add the first job")).to_have_attribute("href", "/jobs/new")
    await admin.find_no_barriers()
    viewer = await people.enter("viewer", tenant=admin.tenant)
    page = await viewer.open("/jobs")
    await expect(page.get_by_text("An administrator can add one.")).to_be_visible()
    await expect(page.get_by_role("link", name="Add the first job")).to_have_count(0)


async def test_jobs_are_sorted_filtered_and_found_again_by_their_address(people: People) -> None:
    admin = await people.enter()
    await submit(admin, title="Beta")
    await submit(admin, title="Alpha", source="contact_history")
    await submit(admin, title="Gamma", type="interaction")
    page = await admin.open("/jobs")
    titles = page.locator("tbody th a")
    await expect(titles).to_have_text(["Gamma", "Alpha", "Beta"])
    await page.get_by_role("link", name="Title").click()
    await expect(titles).to_have_text(["Alpha", "Beta", "Gamma"])
    await expect(page.get_by_role("columnheader", name="Title")).to_have_attribute("aria-sort", "ascending")
    await page.get_by_role("link", name="Title").click()
    await expect(titles).to_have_text(["Gamma", "Beta", "Alpha"])
    await page.get_by_label("Source").select_option("ucs")
    await expect(titles).to_have_text(["Gamma", "Beta"])
    await page.get_by_label("Type").select_option("contact")
    await expect(titles).to_have_text(["Beta"])
    await page.reload()  # the address has it all
    await expect(titles).to_have_text(["Beta"])
    await expect(page.get_by_label("Source")).to_have_value("ucs")
    await page.get_by_label("Title or description").fill("nothing has this")
    await expect(page.get_by_role("heading", name="No job matches")).to_be_visible()
    await page.get_by_role("link", name="Show all jobs").click()
    await expect(titles).to_have_count(3)
    for column in ("Source", "Type", "Active", "Created at", "Latest status", "Latest started at", "Next starts at"):
        await page.get_by_role("columnheader", name=column).get_by_role("link").click()
        await expect(page.get_by_role("columnheader", name=column)).to_have_attribute("aria-sort", "ascending")


async def test_pages_follow_each_other_and_keep_the_filters(people: People) -> None:
    admin = await people.enter()
    for number in range(27):
        await submit(admin, title=f"Job {number:02}")
    page = await admin.open("/jobs?sort=title&text=Job")
    titles = page.locator("tbody th a")
    await expect(titles).to_have_count(25)
    await page.get_by_role("link", name="Next page").click()
    await expect(titles).to_have_text(["Job 25", "Job 26"])
    assert "text=Job" in page.url
    await page.go_back()
    await expect(titles).to_have_count(25)
    await page.wait_for_load_state()
    await page.get_by_label("Select all jobs on this page").check()
    await expect(page.locator("[data-selected-count]")).to_have_text("25 selected")


@pytest.mark.usefixtures("quiet_hour")
async def test_the_switch_suspends_and_resume_asks_about_missed_slots(people: People) -> None:
    admin = await people.enter()
    job = await submit(admin, title="Switched", schedule={"kind": "hourly", "every": 1})
    page = await admin.open("/jobs")
    switch = page.get_by_role("switch", name="Active: Switched")
    await switch.click()
    await expect(switch).to_have_attribute("aria-checked", "false")
    await expect(page.get_by_role("status").get_by_text("“Switched” is suspended.")).to_be_visible()
    # Nothing was missed in a moment: it is resumed at once.
    await switch.click()
    await expect(switch).to_have_attribute("aria-checked", "true")
    await switch.click()
    await expect(switch).to_have_attribute("aria-checked", "false")
    # As if it had been suspended yesterday.
    await execute(
        admin.stack, f"UPDATE job_api.jobs SET stopped_at = stopped_at - interval '1 day' WHERE id = '{job['id']}'"
    )
    await switch.click()
    dialog = page.get_by_role("dialog", name="Resume “Switched”")
    await expect(dialog.get_by_text("24 slots passed")).to_be_visible()
    await expect(dialog.get_by_label("Nothing: go on with the next slot")).to_be_checked()
    await admin.find_no_barriers()
    await dialog.get_by_role("button", name="Stay suspended").click()
    await expect(switch).to_have_attribute("aria-checked", "false")
    await switch.click()
    await dialog.get_by_label("Run the latest one").check()
    await dialog.get_by_role("button", name="Resume").click()
    await expect(switch).to_have_attribute("aria-checked", "true")
    await expect(dialog).to_be_hidden()


async def test_the_toolbar_works_on_what_is_selected(people: People) -> None:
    admin = await people.enter()
    kept = await submit(admin, title="Kept")
    await submit(admin, title="Dropped")
    page = await admin.open("/jobs")
    toolbar = page.get_by_role("toolbar", name="Jobs")
    for name in ("Edit", "Delete", "Run now", "Search execution history"):
        await expect(toolbar.get_by_role("button", name=name)).to_be_disabled()
    await page.get_by_label("Select Dropped").check()
    await toolbar.get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog", name="Delete 1 job?")
    await expect(dialog.get_by_role("listitem")).to_have_text("Dropped")
    await page.keyboard.press("Escape")
    await toolbar.get_by_role("button", name="Delete").click()
    await dialog.get_by_role("button", name="Delete").click()
    await expect(page.get_by_text("Deleted 1 job.")).to_be_visible()  # for some seconds
    await expect(page.locator("tbody th a")).to_have_text(["Kept"])
    await page.get_by_label("Select Kept").check()
    await toolbar.get_by_role("button", name="Run now").click()
    await expect(page.get_by_text("Requested a run of 1 job.")).to_be_visible()
    await expect(page.get_by_label("Select Kept")).to_be_checked()
    await toolbar.get_by_role("button", name="Search execution history").click()
    await page.wait_for_url(f"**/history?job_id={kept['id']}")


AWAY_AND_BACK = """() => {
  for (const hidden of [true, false]) {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
    document.dispatchEvent(new Event("visibilitychange"));
  }
}"""


async def test_what_is_selected_stays_so_when_the_list_reads_itself_again(people: People) -> None:
    admin = await people.enter()
    chosen = await submit(admin, title="Chosen")
    other = await submit(admin, title="Before")
    page = await admin.open("/jobs")
    await page.get_by_label("Select Chosen").check()
    settings = {**other["settings"], "title": "After"}
    headers = {"If-Match": f'"{other["version"]}"'}
    await admin.api("PUT", f"/jobs/{other['id']}", settings, headers=headers)
    await page.evaluate(AWAY_AND_BACK)
    await expect(page.get_by_label("Select After")).not_to_be_checked()
    await expect(page.get_by_label("Select Chosen")).to_be_checked()
    await page.get_by_role("button", name="Search execution history").click()
    await page.wait_for_url(f"**/history?job_id={chosen['id']}")


async def test_a_job_in_progress_is_not_deleted(people: People) -> None:
    admin = await people.enter()
    job = await submit(admin, title="Running")
    await admin.stack.stop("exporter")
    try:
        await admin.api("POST", f"/jobs/{job['id']}/run")
        page = await admin.open("/jobs")
        await page.get_by_label("Select Running").check()
        await page.get_by_role("button", name="Delete").click()
        await page.get_by_role("dialog", name="Delete 1 job?").get_by_role("button", name="Delete").click()
        await expect(page.locator("#notices")).to_contain_text("in progress")
        await expect(page.locator("tbody th a")).to_have_text(["Running"])
    finally:
        await admin.stack.start("exporter")


async def test_a_viewer_sees_everything_and_changes_nothing(people: People) -> None:
    admin = await people.enter()
    await submit(admin, title="Seen")
    viewer = await people.enter("viewer", tenant=admin.tenant, theme="dark")
    page = await viewer.open("/jobs")
    await expect(page.locator("tbody th a")).to_have_text(["Seen"])
    await expect(page.get_by_role("switch")).to_have_count(0)
    for name in ("Edit", "Delete", "Run now"):
        await expect(page.get_by_role("button", name=name)).to_have_count(0)
    await viewer.find_no_barriers()
    operator = await people.enter("operator", tenant=admin.tenant)
    page = await operator.open("/jobs")
    await expect(page.get_by_role("switch")).to_have_count(1)
    await expect(page.get_by_role("button", name="Delete")).to_have_count(0)


async def test_two_tenants_see_their_own(people: People) -> None:
    first, second = await people.enter(), await people.enter()
    job = await submit(first, title="Of the first")
    await submit(second, title="Of the second")
    await expect((await first.open("/jobs")).locator("tbody th a")).to_have_text(["Of the first"])
    await expect((await second.open("/jobs")).locator("tbody th a")).to_have_text(["Of the second"])
    page = await second.open(f"/jobs/delete?job={job['id']}")
    await expect(page.get_by_role("heading", name="Not found")).to_be_visible()


async def test_hostile_titles_are_text(people: People) -> None:
    admin = await people.enter()
    for title in HOSTILE:
        await submit(admin, title=title, description=title, labels={"note": title})
    page = await admin.open("/jobs?sort=created_at")
    shown = await page.locator("tbody th a").all_inner_texts()
    assert shown == [" ".join(title.split()) for title in HOSTILE]
    assert await page.evaluate("window.stolen === undefined")


async def test_a_phone_has_it_all(people: People) -> None:
    admin = await people.enter(width=390, theme="dark")
    await submit(admin, title="On the way")
    page = await admin.open("/jobs")
    await expect(page.get_by_role("link", name="On the way")).to_be_visible()
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await page.get_by_role("button", name="Menu").click()
    await expect(page.get_by_role("link", name="Artifacts")).to_be_visible()
    await admin.find_no_barriers()


async def test_the_keyboard_alone_suspends_a_job(people: People) -> None:
    admin = await people.enter()
    await submit(admin, title="By keys")
    page = await admin.open("/jobs")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    await page.keyboard.press("Enter")
    switch = page.get_by_role("switch", name="Active: By keys")
    for _ in range(40):
        if await switch.evaluate("element => element === document.activeElement"):
            break
        await page.keyboard.press("Tab")
    await page.keyboard.press("Space")
    await expect(switch).to_have_attribute("aria-checked", "false")
    await expect(switch).to_be_focused()
