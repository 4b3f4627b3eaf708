"""The overview: first steps, what runs, what comes next, what failed, and how much was exported."""

import re
from datetime import timedelta

from playwright.async_api import expect

from tests.console.browser.conftest import People
from tests.console.browser.exports import exported, store_certificate
from tests.console.hostile import HOSTILE
from tests.system.driver import JOB, Recipient, eventually

DAILY = {"kind": "daily", "at": "02:30"}
LAST_DAY = {"kind": "last", "unit": "day"}
WHOLE = {"kind": "all"}
NIGHTLY = {"title": "Nightly", "source": "ucs", "type": "contact", "schedule": DAILY, "timeframe": LAST_DAY}


async def test_a_new_tenant_is_led_from_its_first_steps_to_its_exports(people: People) -> None:
    person = await people.enter()
    page = await person.open("/")
    await expect(page.get_by_role("heading", name="First steps")).to_be_visible()
    await person.find_no_barriers()
    await page.get_by_role("link", name="Add a certificate").click()
    await expect(page.get_by_role("heading", name="User preferences")).to_be_visible()
    await store_certificate(person, Recipient("soon over", valid_for=timedelta(days=10)))
    await person.open("/")
    await expect(page.get_by_role("heading", name="Done: Store a certificate")).to_be_visible()
    await expect(page.get_by_text("The certificate CN=soon over expires soon: 9 days left.")).to_be_visible()

    # A failure with its remedy, a success, a run that goes on, and a job that waits; titles stay text.
    title = "".join(HOSTILE)[:200]
    lab = {"source": "lab", "timeframe": WHOLE, "retry": {"attempts": 1}}
    await exported(person, "failed", **lab, type="broken", title=title)
    await exported(person, title="It went well")
    await person.api("POST", "/jobs", {**NIGHTLY, "title": title})
    await person.open("/")
    failures = page.get_by_role("region", name="Failed in the last seven days")
    await expect(failures.get_by_role("listitem")).to_contain_text(title)
    await expect(failures.get_by_role("link", name=re.compile("^(See the run|Edit the job)"))).to_be_visible()
    await expect(page.get_by_role("region", name="Next up").get_by_role("listitem")).to_contain_text("02:30:00")
    throughput = page.get_by_role("region", name="The last 30 days")
    await expect(throughput).to_contain_text("50 %")
    await expect(throughput.get_by_role("img", name=re.compile("Runs by outcome by day"))).to_be_visible()
    await throughput.get_by_text("As a table").first.click()
    await expect(throughput.get_by_role("table").first.get_by_role("row")).to_have_count(2)
    assert await page.evaluate("window.stolen") is None
    await person.find_no_barriers()

    # What runs is seen without a reload, with its bar, and leaves again.
    running = page.get_by_role("region", name="Running now")
    await expect(running).to_contain_text("Nothing runs at the moment.")
    job = await person.api("POST", "/jobs", {**JOB, **lab, "type": "slow", "title": "A slow one"})
    await expect(running.get_by_role("link", name="A slow one")).to_be_visible()
    await expect(running.get_by_role("progressbar")).to_be_visible()
    await expect(running).to_contain_text("Nothing runs at the moment.", timeout=60_000)

    async def succeeded() -> bool:
        return (await person.api("GET", f"/jobs/{job['id']}"))["latest_run"]["state"] == "succeeded"

    await eventually(succeeded, what="job_api to know of the end")

    viewer = await people.enter("viewer", tenant=person.tenant, theme="dark", width=390)
    page = await viewer.open("/")
    await expect(page.get_by_role("region", name="The last 30 days")).to_contain_text("Success rate")
    assert await page.get_by_role("link", name="Replace it").count() == 0
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await viewer.find_no_barriers()


async def test_without_a_certificate_jobs_call_for_one(people: People) -> None:
    person = await people.enter()
    reader = Recipient("leaves soon")
    await store_certificate(person, reader)
    await person.api("POST", "/jobs", NIGHTLY)
    await person.api("DELETE", f"/certificates/{reader.fingerprint}")
    page = await person.open("/")
    await expect(page.get_by_text("There is no certificate yet.")).to_be_visible()
    await expect(page.get_by_role("link", name="Add a certificate")).to_be_visible()
    await expect(page.get_by_role("region", name="The last 30 days")).to_contain_text("No run ended yet.")
    await person.find_no_barriers()
