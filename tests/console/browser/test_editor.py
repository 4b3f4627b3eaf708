"""The job editor, as people use it."""

import re
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final
from uuid import uuid4

from playwright.async_api import Dialog, Page, expect

from tests.console.browser.conftest import People, Person
from tests.console.hostile import HOSTILE
from tests.system.driver import Recipient, eventually

DAILY: Final = {
    "source": "ucs", "type": "interaction", "schedule": {"kind": "daily", "at": "02:30"},
    "timeframe": {"kind": "last", "unit": "day"},
}  # fmt: skip
DAY: Final = timedelta(days=1)


@cache
def recipient() -> Recipient:
    return Recipient("the editor's tests")


async def enter(people: People, role: str = "admin", **how: Any) -> Person:
    """Somebody of a tenant that has a certificate."""
    person = await people.enter(role, **how)
    administrator = person if role == "admin" else await people.enter(tenant=person.tenant)
    await administrator.api("POST", "/certificates", content=recipient().pem)
    return person


async def job_of(person: Person, **settings: Any) -> dict[str, Any]:
    job: dict[str, Any] = await person.api("POST", "/jobs", {"title": "A job", **DAILY, **settings})
    return job


async def choose(page: Page, group: str, name: str) -> None:
    """One of the radio buttons that stand beside each other."""
    await page.get_by_role("radiogroup", name=group).get_by_label(name, exact=True).check()


async def saved(page: Page, title: str) -> str:
    """Save, and find the job in the list of jobs; its id."""
    await page.get_by_role("button", name=re.compile("^Save")).click()
    await page.wait_for_url(re.compile(r"/jobs\?saved="))
    await expect(page.get_by_text(f"“{title}” is saved")).to_be_visible()
    await expect(page.get_by_role("rowheader", name=title).first).to_be_visible()
    return page.url.rpartition("=")[2]


async def test_every_kind_of_job_is_created(people: People) -> None:
    person = await enter(people)
    tomorrow = f"{datetime.now(UTC) + DAY:%Y-%m-%d}"
    shown: dict[str, dict[str, Any]] = {}

    async def create(kind: str, **expected: Any) -> None:
        job = await person.api("GET", f"/jobs/{await saved(page, kind)}")
        shown[kind] = job["settings"]
        assert job["settings"] | expected == job["settings"], kind

    async def begin(kind: str, schedule: str) -> Page:
        page = await person.open("/jobs/new")
        await page.get_by_label("Title").fill(kind)
        await choose(page, "Schedule", schedule)
        return page

    page = await begin("Once, at once", "Once")
    await expect(page.locator("#preview")).to_contain_text("A one-time job starts immediately or at a UTC time.")
    await choose(page, "Start", "Immediately")
    await choose(page, "Data of", "All data")
    await expect(page.locator(".slots li")).to_have_count(1)
    await create("Once, at once", schedule={"kind": "once"}, start="immediately", timeframe={"kind": "all"})

    page = await begin("Once, later", "Once")
    await choose(page, "Start", "At a date and time")
    await page.get_by_label("Start at: date").fill(tomorrow)
    await page.get_by_label("Start at: time in UTC").fill("04:05")
    await choose(page, "Data of", "Fixed interval")
    await page.get_by_label("Start: date").fill("2026-01-01")
    await page.get_by_label("End: date").fill("2026-03-31")
    await expect(page.locator(".slots")).to_contain_text("2026-01-01 00:00:00 – 2026-04-01 00:00:00")
    fixed = {"kind": "fixed", "from": "2026-01-01T00:00:00Z", "to": "2026-04-01T00:00:00Z"}
    await create("Once, later", start=f"{tomorrow}T04:05:00Z", timeframe=fixed)

    page = await begin("Hourly", "Hourly")
    await page.get_by_label("Every", exact=True).select_option("4 hours")
    await page.get_by_label("Unit", exact=True).select_option("hours")
    await expect(page.locator(".seam").first).to_contain_text("Gap:")
    await page.get_by_role("textbox", name="The last").fill("5")
    await expect(page.locator(".seam").first).to_contain_text("Overlap:")
    await create("Hourly", schedule={"kind": "hourly", "every": 4}, overlap="buffer_all")

    page = await begin("Daily", "Daily")
    await page.get_by_label("Time of day in UTC").fill("23:30")
    await choose(page, "Data of", "Since the last successful run")
    await page.get_by_label("First run from: date").fill("2026-01-01")
    await expect(page.locator(".warnings")).to_contain_text("no gap, no overlap")
    since = {"kind": "since_last_run", "from": "2026-01-01T00:00:00Z"}
    await create("Daily", schedule={"kind": "daily", "at": "23:30"}, timeframe=since, overlap="buffer_one")

    page = await begin("Weekly", "Weekly")
    await page.get_by_label("Fri", exact=True).check()
    await create("Weekly", schedule={"kind": "weekly", "days": ["mon", "fri"], "at": "02:00"})

    page = await begin("Monthly", "Monthly")
    await page.get_by_label("Job applies to media types: all").uncheck()
    await page.get_by_label("Voice").check()
    await page.get_by_label("Ends at: date").fill(f"{datetime.now(UTC) + 400 * DAY:%Y-12-31}")
    await create("Monthly", schedule={"kind": "monthly", "day": "last", "at": "02:00"}, media_types=["voice"])
    assert shown["Monthly"]["ends_at"].endswith("-01-01T00:00:00Z")

    page = await begin("Cron", "Cron")
    await page.get_by_label("Cron expression").fill("30 2 * * mon-fri")
    await page.get_by_label("Description").fill("As cron\nreads it.")
    await page.get_by_label("File split size", exact=True).fill("64")
    await page.get_by_label("Format", exact=True).select_option("CSV")
    await page.get_by_label("CSV for").select_option("faithful")
    await page.get_by_text("Fields and masking").click()
    await page.get_by_label("Masking of subject").select_option("Redact")
    await page.get_by_text("Policies").click()
    await page.get_by_label("When a run is still open").select_option("Skip the slot")
    await page.get_by_label("Jitter", exact=True).fill("1.5")
    await page.get_by_label("Name of a label").fill("team")
    await page.get_by_label("Value of a label").fill("analytics & more")
    await page.get_by_role("button", name="Another label").click()
    await expect(page.get_by_label("Name of a label").last).to_be_focused()
    await create(
        "Cron", schedule={"kind": "cron", "expression": "30 2 * * mon-fri"}, description="As cron\nreads it.",
        split_bytes=64 * 1024**2, format="csv", csv_profile="faithful", masking={"subject": "redact"}, overlap="skip",
        jitter="PT1M30S", labels={"team": "analytics & more"},
    )  # fmt: skip


async def test_an_edit_shows_what_it_means_while_it_is_typed(people: People) -> None:
    person = await enter(people, zone="America/New_York")
    job = await job_of(person, description="one\ntwo", retry={"attempts": 2, "backoff": "PT90S"})
    page = await person.open(f"/jobs/{job['id']}/edit")
    await expect(page.get_by_text("The schedule counts from now when it is saved")).to_be_visible()
    first = page.locator(".slots li").first
    await expect(first).to_contain_text("02:30:00")
    await expect(page.locator(".slots li")).to_have_count(10)
    await expect(page.locator(".estimate")).to_contain_text("rows")
    await expect(page.locator(".clock")).to_contain_text("America/New_York")
    await page.get_by_label("Time of day in UTC").fill("12:00")
    await expect(first).to_contain_text("12:00:00")
    await expect(first).to_contain_text(re.compile(r"0[78]:00 E[DS]T"))
    await expect(page.get_by_role("status").filter(has_text="Next slot")).to_contain_text("12:00:00")
    # Another type has no media types and other fields.
    await page.get_by_role("combobox", name="Type", exact=True).select_option("Contact")
    await expect(page.get_by_text("This type has no media types.")).to_be_visible()
    await page.get_by_role("combobox", name="Type", exact=True).select_option("Interaction")
    await expect(page.get_by_label("Job applies to media types: all")).to_be_checked()
    await saved(page, "A job")
    after = await person.api("GET", f"/jobs/{job['id']}")
    assert after["version"] == 2
    assert after["settings"] == job["settings"] | {"schedule": {"kind": "daily", "at": "12:00"}}
    # Saving what nobody changed changes nothing.
    page = await person.open(f"/jobs/{job['id']}/edit")
    await saved(page, "A job")
    assert (await person.api("GET", f"/jobs/{job['id']}"))["version"] == 2


async def test_faults_are_told_at_their_inputs_and_nothing_typed_is_lost(people: People) -> None:
    person = await people.enter()
    page = await person.open("/jobs/new")
    await expect(page.get_by_text("there is no valid one yet")).to_be_visible()
    await page.get_by_label("Description").fill("Kept.")
    await page.get_by_label("Time of day in UTC").fill("")
    await page.get_by_text("Policies").click()
    await page.get_by_label("Attempts", exact=True).fill("many")
    await page.get_by_role("button", name="Save and submit").click()
    summary = page.locator("#faults")
    await expect(summary).to_be_focused()
    await expect(summary.get_by_role("link")).to_have_text(["Title", "Time of day", "Attempts"])
    for name in ("title", "at", "attempts"):
        await expect(page.locator(f"[name={name}]")).to_have_attribute("aria-invalid", "true")
    await expect(page.get_by_label("Attempts", exact=True)).to_have_accessible_description(
        re.compile("must be a whole number", re.I)
    )
    await expect(page.get_by_label("Attempts", exact=True)).to_have_value("many")
    await expect(page.get_by_label("Description")).to_have_value("Kept.")
    await person.find_no_barriers()
    await summary.get_by_role("link", name="Title").click()
    await expect(page.get_by_label("Title")).to_be_focused()
    await page.get_by_label("Title").fill("A job")
    await page.get_by_label("Time of day in UTC").fill("02:00")
    await page.get_by_label("Attempts", exact=True).fill("99")
    await page.get_by_role("button", name="Save and submit").click()
    # What only the service knows comes to the same place.
    await expect(page.locator("#attempts-error")).to_contain_text("less than or equal to 10")
    await page.get_by_label("Attempts", exact=True).fill("9")
    await page.get_by_role("button", name="Save and submit").click()
    await expect(page.locator("#faults").get_by_role("link", name="Add a certificate")).to_be_visible()
    await person.api("POST", "/certificates", content=recipient().pem)
    job = await person.api("GET", f"/jobs/{await saved(page, 'A job')}")
    assert (job["settings"]["description"], job["settings"]["retry"]["attempts"]) == ("Kept.", 9)


async def test_leaving_with_something_unsaved_is_asked_about(people: People) -> None:
    person = await enter(people)
    page = await person.open("/jobs/new")
    asked: list[str] = []

    async def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        await dialog.dismiss()

    page.on("dialog", stay)
    title = page.get_by_label("Title")
    await title.fill("A job")
    await page.get_by_role("link", name="History").click()
    await expect(title).to_have_value("A job")
    assert asked == ["beforeunload"]
    await title.fill("")
    await page.get_by_role("link", name="Jobs", exact=True).click()
    await page.wait_for_url("**/jobs")
    assert len(asked) == 1


async def test_two_edits_that_met_are_put_side_by_side(people: People) -> None:
    mine = await enter(people)
    theirs = await people.enter(tenant=mine.tenant)
    job = await job_of(mine)
    path = f"/jobs/{job['id']}"

    async def meanwhile(version: int, **changes: Any) -> None:
        await theirs.api("PATCH", path, changes, headers={"If-Match": f'"{version}"'})

    page = await mine.open(f"{path}/edit")
    await page.get_by_label("Title").fill("Mine")
    await page.get_by_label("Description").fill("Mine, too")
    await meanwhile(1, title="Theirs", labels={"team": "b"})
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("heading", name="Changed meanwhile")).to_be_focused()
    await expect(page.get_by_role("rowheader")).to_have_text(
        [re.compile("Title"), re.compile("Desc"), re.compile("Labels")]
    )
    await mine.find_no_barriers()
    row = page.get_by_role("row", name="Title")
    await expect(row.get_by_label("Mine")).to_be_checked()
    await expect(page.get_by_role("row", name="Labels").get_by_label("team: b")).to_be_checked()
    await row.get_by_label("Theirs").check()
    # A third edit comes in between once more.
    await meanwhile(2, pause_after_failures=5)
    await page.get_by_role("button", name="Save this").click()
    await expect(page.get_by_role("row", name="Suspend after failures").get_by_label("5")).to_be_checked()
    await page.get_by_role("button", name="Go on editing with this").click()
    await expect(page.get_by_label("Description")).to_have_value("Mine, too")
    await saved(page, "Theirs")
    after = await mine.api("GET", path)
    assert after["version"] == 4
    changes = {"title": "Theirs", "description": "Mine, too", "labels": {"team": "b"}, "pause_after_failures": 5}
    assert after["settings"] == job["settings"] | changes


async def test_jobs_and_runs_are_cloned_and_one_time_jobs_are_only_read(people: People) -> None:
    person = await enter(people, tenant="acme")
    job = await job_of(
        person, title="Once", schedule={"kind": "once"}, start="immediately", timeframe={"kind": "all"},
        media_types=["chat"], key=f"once-{uuid4().hex}",
    )  # fmt: skip
    page = await person.open(f"/jobs/{job['id']}/edit")
    await expect(page.get_by_text("A one-time job can’t be edited")).to_be_visible()
    await expect(page.get_by_label("Title")).to_be_disabled()
    await expect(page.get_by_role("button", name=re.compile("^Save"))).to_have_count(0)
    await person.find_no_barriers()
    await page.get_by_role("link", name="Clone this job").click()
    await expect(page.get_by_label("Title")).to_have_value("Once")
    await expect(page.get_by_label("Chat")).to_be_checked()
    await choose(page, "Schedule", "Daily")
    await page.get_by_label("Title").fill("Every day")
    clone = await person.api("GET", f"/jobs/{await saved(page, 'Every day')}")
    assert clone["settings"]["key"] is None
    assert clone["settings"]["media_types"] == ["chat"]

    # The run keeps the settings that the job had.
    async def requested() -> str | None:
        latest = (await person.api("GET", f"/jobs/{job['id']}"))["latest_run"]
        return latest and latest["id"]

    run = await eventually(requested)

    async def recorded() -> bool:
        return bool((await person.api("GET", f"/executions?job_id={job['id']}"))["items"])

    await eventually(recorded)
    page = await person.open(f"/jobs/new?run={run}")
    await expect(page.get_by_label("Title")).to_have_value("Once")
    await expect(page.get_by_label("Chat")).to_be_checked()


async def test_others_see_jobs_and_cannot_save_them(people: People) -> None:
    administrator = await enter(people)
    job = await job_of(administrator, description=HOSTILE[0])
    viewer = await people.enter("viewer", tenant=administrator.tenant, theme="dark")
    page = await viewer.open(f"/jobs/{job['id']}/edit")
    await expect(page.get_by_text("Only administrators can change jobs.")).to_be_visible()
    await expect(page.locator(".slots li")).to_have_count(10)
    await expect(page.get_by_role("button", name=re.compile("^Save"))).to_have_count(0)
    await viewer.find_no_barriers()
    page = await viewer.open("/jobs/new")
    await expect(page.get_by_role("heading", name="Access denied")).to_be_visible()
    stranger = await people.enter()
    page = await stranger.open(f"/jobs/{job['id']}/edit")
    await expect(page.get_by_role("heading", name="Not found")).to_be_visible()
    page = await stranger.open(f"/jobs/new?clone={job['id']}")
    await expect(page.get_by_role("heading", name="Not found")).to_be_visible()


async def test_what_people_type_stays_text(people: People) -> None:
    person = await enter(people, theme="dark")
    everything = "\n".join(HOSTILE)
    labels = {f"label_{number}": text for number, text in enumerate(HOSTILE)}
    job = await job_of(person, title=HOSTILE[2], description=everything, labels=labels)
    page = await person.open(f"/jobs/{job['id']}/edit")
    await expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE[2])
    await expect(page.get_by_label("Description")).to_have_value(everything)
    await expect(page.locator(".slots li")).to_have_count(10)
    await choose(page, "Schedule", "Cron")
    await page.get_by_label("Cron expression").fill(HOSTILE[0])
    await expect(page.locator("#preview")).to_contain_text("Cron expression")
    await choose(page, "Schedule", "Daily")
    await saved(page, HOSTILE[2])
    assert (await person.api("GET", f"/jobs/{job['id']}"))["version"] == 1
    # What another person wrote is not run either when two edits meet.
    page = await person.open(f"/jobs/{job['id']}/edit")
    await page.get_by_label("Description").fill(HOSTILE[4])
    await person.api("PATCH", f"/jobs/{job['id']}", {"description": HOSTILE[5]}, headers={"If-Match": '"1"'})
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("row", name="Description")).to_contain_text(HOSTILE[5])
    assert await page.evaluate("window.stolen") is None


async def test_a_daily_job_is_made_without_a_mouse(people: People) -> None:
    person = await enter(people)
    page = await person.open("/jobs/new")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")  # Skip to content.

    async def reach(name: str) -> None:
        for _ in range(40):
            if await page.evaluate("document.activeElement.getAttribute('name')") == name:
                return
            await page.keyboard.press("Tab")
        raise AssertionError(f"{name} can't be reached")

    await reach("title")
    await page.keyboard.type("By hand")
    await reach("schedule_kind")
    await page.keyboard.press("ArrowLeft")  # From daily to hourly and back.
    await expect(page.get_by_label("Every", exact=True)).to_be_visible()
    await page.keyboard.press("ArrowRight")
    await reach("at")
    await page.keyboard.type("0430")
    await expect(page.locator(".slots li").first).to_contain_text("04:30:00")
    save = page.get_by_role("button", name="Save and submit")
    for _ in range(40):
        if await save.evaluate("button => button === document.activeElement"):
            break
        await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await page.wait_for_url(re.compile(r"/jobs\?saved="))
    job = await person.api("GET", f"/jobs/{page.url.rpartition('=')[2]}")
    assert job["settings"]["schedule"] == {"kind": "daily", "at": "04:30"}


async def test_the_editor_fits_a_phone_and_has_no_barriers(people: People) -> None:
    for theme, width in (("light", 390), ("dark", 390), ("light", 1440)):
        person = await enter(people, theme=theme, width=width)
        page = await person.open("/jobs/new")
        await expect(page.locator(".estimate")).to_contain_text("rows")
        for folded in ("Fields and masking", "Delivery", "Policies"):
            await page.get_by_text(folded).first.click()
        await page.get_by_label("Job applies to media types: all").uncheck()
        await page.get_by_label("Every valid certificate").uncheck()
        await page.get_by_label("All fields").uncheck()
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await person.find_no_barriers()


async def test_a_past_period_is_exported_again(people: People) -> None:
    person = await enter(people, tenant="acme")
    job = await job_of(person)
    path = f"/jobs/{job['id']}/backfill"
    begin = (datetime.now(UTC) - 4 * DAY).replace(hour=0, minute=0, second=0, microsecond=0)
    page = await person.open(f"/jobs/{job['id']}/edit")
    await page.get_by_role("link", name="Export again a past period").click()
    await page.get_by_role("button", name="List the slots first").click()
    await expect(page.locator("#plan")).to_contain_text("Needs a date.")
    await page.get_by_role("button", name="Export again").click()
    await expect(page.locator("#faults")).to_be_focused()
    # As the coverage calendar leads here.
    page = await person.open(f"{path}?from={begin:%Y-%m-%dT%H:%M:%SZ}&to={begin + 3 * DAY:%Y-%m-%dT%H:%M:%SZ}")
    await expect(page.get_by_label("End: date")).to_have_value(f"{begin + 2 * DAY:%Y-%m-%d}")
    await page.get_by_label("Runs at a time").fill("2")
    await page.get_by_role("button", name="List the slots first").click()
    await expect(page.locator("#plan").get_by_role("row")).to_have_count(4)
    await person.find_no_barriers()
    await page.get_by_role("button", name="Export again").click()
    await expect(page.get_by_text("The backfill is requested.")).to_be_visible()
    row = page.locator("#backfills").get_by_role("row").nth(1)
    await expect(row).to_contain_text("3 finished", timeout=30_000)
    await expect(row).to_contain_text("Finished")
    await person.find_no_barriers()
    # Those with a run are not wanted any more, unless all are.
    page = await person.open(f"{path}?from={begin:%Y-%m-%d}&to={begin + 3 * DAY:%Y-%m-%d}")
    await page.get_by_role("button", name="List the slots first").click()
    await expect(page.locator("#plan")).to_contain_text("Nothing")
    await page.get_by_label("Which slots").select_option("All, exported ones again")
    await page.get_by_label("Start: date").fill("2026-01-01")
    await page.get_by_role("button", name="Export again").click()
    await page.get_by_role("button", name=re.compile("^Cancel the backfill")).click()
    await expect(page.get_by_text("The backfill is cancelled")).to_be_visible()
    await expect(page.locator("#backfills").get_by_role("row").nth(1)).to_contain_text("Cancelled")
    viewer = await people.enter("viewer", tenant="acme", width=390)
    page = await viewer.open(path)
    await expect(page.locator("#backfills").get_by_role("row")).to_have_count(3)
    await expect(page.get_by_role("button", name="Export again")).to_have_count(0)
    await viewer.find_no_barriers()
