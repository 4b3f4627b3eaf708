"""Every page, in both themes, held against the rules of axe-core, with data on it."""

import pytest
from playwright.async_api import expect

from deploy.local.data import START
from tests.console.browser.conftest import People
from tests.console.browser.exports import exported, store_certificate
from tests.system.driver import Recipient


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_no_page_has_a_barrier(people: People, theme: str) -> None:
    admin = await people.enter(tenant="acme", theme=theme)
    await store_certificate(admin, Recipient("no-barriers"))
    run = await exported(admin, title="Held against the rules")
    broken = {"source": "lab", "type": "broken", "timeframe": {"kind": "all"}}
    once = {"attempts": 1, "backoff": "PT0.5S"}
    failed = await exported(admin, "failed", title="Failed against the rules", retry=once, **broken)
    job = run["job_id"]
    pages = {
        "/": "Overview",
        "/jobs": "Jobs",
        "/jobs/new": "New job",
        f"/jobs/{job}/edit": "Held against the rules",
        "/history": "History",
        f"/history/{run['run_id']}": "Held against the rules",
        f"/history/{failed['run_id']}": "Failed against the rules",
        "/history/slots": "Slots",
        f"/history/coverage/{job}?month={START:%Y-%m}": "Coverage",
        "/artifacts": "Artifacts",
        "/preferences": "User preferences",
        "/nowhere": "Not found",
    }
    for path, heading in pages.items():
        page = await admin.open(path)
        await expect(page.get_by_role("heading", level=1)).to_contain_text(heading)
        await admin.find_no_barriers()
