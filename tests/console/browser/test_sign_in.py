"""Who gets in, and what they see."""

from playwright.async_api import expect

from tests.console.browser.conftest import People


async def test_a_token_behind_the_hash_signs_in_and_out(people: People) -> None:
    person = await people.enter()
    page = await person.open("/jobs")
    await expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
    await page.get_by_label("User menu").click()
    await page.get_by_role("button", name="Sign out").click()
    await page.wait_for_url("**/sign-in")
    await person.open("/jobs?source=ucs")
    assert page.url.endswith("/sign-in?next=%2Fjobs%3Fsource%3Ducs")


async def test_the_list_of_jobs_has_no_barriers(people: People) -> None:
    person = await people.enter()
    await person.open("/jobs")
    await person.find_no_barriers()
