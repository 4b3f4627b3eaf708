"""The page of exported files, from a run to its decrypted rows."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import asyncpg
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from playwright.async_api import Page, expect

from deploy.local.stack import SOURCES_DATABASE
from tests.console.browser.conftest import People, Person
from tests.console.browser.exports import exported, store_certificate
from tests.system.driver import Recipient, Row, eventually

HOSTILE = "<img src=x onerror=alert(1)>'\"</td>{{ 7*7 }}<script>alert(2)</script> " + "W" * 120
HOUR = {"kind": "fixed", "from": "2026-02-03T09:00:00Z", "to": "2026-02-03T12:00:00Z"}


async def test_a_file_is_found_downloaded_decrypted_and_deleted(people: People, tmp_path: Path) -> None:
    person = await people.enter(tenant="acme")
    await person.context.grant_permissions(["clipboard-read", "clipboard-write"])
    reader = Recipient("reader of files")
    await store_certificate(person, reader)
    run, old_form = await asyncio.gather(
        exported(person, title=HOSTILE), exported(person, title="In the old form", encryption="smime", timeframe=HOUR)
    )
    key = reader.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(key)
    rows = next(part for part in run["artifacts"] if part["entity"] == "Interaction")

    page = await person.open(f"/artifacts?run_id={run['run_id']}")
    row = page.locator(f"#artifact-{rows['artifact_id']}")
    await expect(row).to_contain_text(HOSTILE)
    await expect(row).to_contain_text("30")
    await person.find_no_barriers()

    # One icon per file; what comes is what was stored.
    async with page.expect_download() as starting:
        await row.get_by_label(f"Download {rows['file_name']}").click()
    download = await starting.value
    assert download.suggested_filename == rows["file_name"]
    await download.save_as(tmp_path / rows["file_name"])
    assert sha256((tmp_path / rows["file_name"]).read_bytes()).hexdigest() == rows["sha256"]
    await row.get_by_label("Copy the SHA-256").click()
    await expect(row.get_by_text("Copied")).to_have_count(1)
    assert await page.evaluate("navigator.clipboard.readText()") == rows["sha256"]

    # The dialog's commands are typed as they are.
    await row.get_by_label(f"How to decrypt {rows['file_name']}").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_role("heading", name="How to decrypt")).to_be_visible()
    await expect(dialog).to_contain_text(rows["sha256"])
    await person.find_no_barriers()
    await follow(dialog_commands(await dialog.locator(".steps .copied code").all_text_contents()), tmp_path)
    lines = tmp_path / rows["file_name"].replace("export", "Interaction").replace("-of-0002.zip.p7m", ".jsonl")
    exported_ids = sorted(json.loads(line)["ixnId"] for line in lines.read_bytes().splitlines())
    assert exported_ids == await ids_in_the_source(person)
    assert len(exported_ids) == rows["rows"]
    async with page.expect_download() as starting:
        await dialog.get_by_role("link", name="Manifest").click()
    manifest = json.loads(Path(await (await starting.value).path()).read_text())
    assert rows["sha256"] in [part["stored_sha256"] for part in manifest["parts"]]
    async with page.expect_download() as starting:
        await dialog.get_by_role("link", name="JSON Schema").click()
    assert json.loads(Path(await (await starting.value).path()).read_text())["$schema"].startswith(
        "http://json-schema.org/draft-07"
    )
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)

    await the_old_form_is_read_with_smime(person, old_form, tmp_path)
    await a_range_is_passed_through(person, rows)
    await a_file_is_deleted(person, run, rows)


def dialog_commands(texts: list[str]) -> list[str]:
    """The commands that prove and open the file, without those that fetch it."""
    return [text for text in texts if not text.startswith(("export ", "cdds artifacts fetch"))]


async def follow(commands: list[str], folder: Path) -> None:
    """Type commands in a folder; `cdds` is the one beside this Python."""
    cdds = Path(shutil.which("python3", path=f"{Path(sys.prefix)}/bin") or "").parent
    for command in commands:
        ended = await asyncio.to_thread(
            subprocess.run, ["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False,
            env={**os.environ, "PATH": f"{cdds}:{os.environ['PATH']}"},
        )  # fmt: skip
        assert ended.returncode == 0, (command, ended.stderr)


async def ids_in_the_source(person: Person) -> list[str]:
    connection = await asyncpg.connect(person.stack.dsn(SOURCES_DATABASE))
    try:
        found = await connection.fetch(
            """SELECT "ixnId" FROM ucs.interactions WHERE "tenantId" = 'acme'
               AND "startDate" >= '2026-02-03T00:00:00Z' AND "startDate" < '2026-02-04T00:00:00Z'"""
        )
    finally:
        await connection.close()
    return sorted(row["ixnId"] for row in found)


async def the_old_form_is_read_with_smime(person: Person, run: Row, folder: Path) -> None:
    page = await person.open(f"/artifacts?run_id={run['run_id']}")
    part = run["artifacts"][0]
    async with page.expect_download() as starting:
        await page.get_by_label(f"Download {part['file_name']}").click()
    await (await starting.value).save_as(folder / part["file_name"])
    await person.open(f"/artifacts/{run['run_id']}/{part['artifact_id']}")  # without a dialog: a page of its own
    texts = dialog_commands(await page.locator(".steps .copied code").all_text_contents())
    assert texts[1].startswith("openssl smime -decrypt")
    await person.find_no_barriers()
    await follow(texts, folder)


async def a_range_is_passed_through(person: Person, part: Row) -> None:
    address = f"{person.stack.url}/artifacts/{part['artifact_id']}/download"
    whole = await person.context.request.get(address)
    some = await person.context.request.get(address, headers={"Range": "bytes=10-19"})
    assert (some.status, await some.body()) == (206, (await whole.body())[10:20])
    assert some.headers["content-range"] == f"bytes 10-19/{part['size_bytes']}"
    assert some.headers["content-disposition"] == f'attachment; filename="{part["file_name"]}"'
    beyond = await person.context.request.get(address, headers={"Range": f"bytes={part['size_bytes']}-"})
    assert beyond.status == 416


async def a_file_is_deleted(person: Person, run: Row, part: Row) -> None:
    page = await person.open(f"/artifacts?run_id={run['run_id']}")
    row = page.locator(f"#artifact-{part['artifact_id']}")
    await row.get_by_role("checkbox").check()
    await expect(page.get_by_text("1 selected")).to_be_visible()
    await page.get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text(part["file_name"])
    # What the row is as long as the bytes are there.
    path = f"/artifacts/{run['run_id']}/{part['artifact_id']}/row"
    still = await person.context.request.get(f"{person.stack.url}{path}")
    assert "Being deleted" in await still.text()
    # Somebody else is quicker: each refusal is named, with its file.
    other = run["artifacts"][1 - run["artifacts"].index(part)]
    await dialog.get_by_role("button", name="Keep").click()
    await page.locator(f"#artifact-{other['artifact_id']}").get_by_role("checkbox").check()
    await page.get_by_role("button", name="Delete").click()
    await expect(dialog).to_contain_text("Delete 2 files?")
    await person.api("DELETE", f"/files/{other['artifact_id']}")
    await dialog.get_by_role("button", name="Delete").click()
    notices = page.locator("#notices")
    await expect(notices).to_contain_text("Deleted 1 file.")
    await expect(notices).to_contain_text(f"{other['file_name']}: The file is gone: it was deleted on request.")
    await expect(row).to_contain_text(re.compile("Being deleted|Deleted"))  # the janitor may be quicker than the page
    await expect(row).to_contain_text("Deleted", timeout=20_000)
    await expect(row).to_contain_text("by admin@acme", timeout=20_000)
    await expect(page.get_by_text("selected")).to_have_count(1)  # what could not be deleted stays chosen
    await person.find_no_barriers()
    gone = await person.context.request.get(f"{person.stack.url}/artifacts/{part['artifact_id']}/download")
    assert gone.status == 410
    assert "it was deleted on request" in await gone.text()
    await person.open(f"/artifacts?run_id={run['run_id']}&shown=there")
    await expect(page.get_by_role("heading", name="No file matches")).to_be_visible()
    await person.open("/artifacts?shown=gone&text=onerror")
    await expect(page.locator("tbody tr")).to_have_count(2)


async def test_a_hundred_files_are_chosen_at_most_and_downloaded_or_deleted_together(people: People) -> None:
    person = await people.enter(tenant="acme")
    await store_certificate(person, Recipient("reader of many"))
    run = await exported(person, title="Many small files", split_bytes=64 * 1024, timeframe={"kind": "all"})
    assert len(run["artifacts"]) > 100
    page = await person.open("/artifacts?text=Many+small")
    for path in ("", "next"):
        if path:
            await page.get_by_role("link", name="Next page").click()
            await expect(page.get_by_text("50 selected; 50 of them not on this page")).to_be_visible()
        await page.get_by_label("Select all files on this page").check()
    await expect(
        page.get_by_text("100 selected; 50 of them not on this page; 100 is the most at a time")
    ).to_be_visible()
    await page.get_by_role("link", name="Next page").click()
    free = page.locator("tbody input[type=checkbox]")
    await expect(free.first).to_be_disabled()
    await expect(page.get_by_label("Select all files on this page")).to_be_disabled()
    await expect(page.get_by_text("100 selected; 100 of them not on this page")).to_be_visible()
    await page.get_by_role("columnheader", name="Size").get_by_role("link").click()
    await expect(page.get_by_text("100 selected")).to_be_visible()

    await page.get_by_role("button", name="Download").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_role("heading", name="Download 100 files")).to_be_visible()
    await expect(dialog.get_by_role("listitem")).to_have_count(100)
    fetch = f"cdds artifacts fetch --url {person.stack.url} --into exports --run {run['run_id']}"
    await expect(dialog).to_contain_text(fetch)
    assert len(await downloads_of(page, 3)) == 3
    await person.find_no_barriers()
    await dialog.get_by_role("button", name="Close").click()

    await page.get_by_role("button", name="Delete").click()
    await expect(dialog.get_by_role("heading", name="Delete 100 files?")).to_be_visible()
    await dialog.get_by_role("button", name="Delete").click()
    await expect(page.locator("#notices")).to_contain_text("Deleted 100 files.", timeout=30_000)
    await expect(page.get_by_text("selected")).to_have_count(0)

    async def deleted() -> bool:
        found = await person.api(
            "GET", "/artifacts", params={"run_id": run["run_id"], "available": False, "limit": 200}
        )
        return len(found["items"]) == 100

    await eventually(deleted, what="100 files are gone")


async def downloads_of(page: Page, most: int) -> list[str]:
    """The names of the first downloads that begin when all are started."""
    begun: asyncio.Queue[str] = asyncio.Queue()
    page.on("download", lambda download: begun.put_nowait(download.suggested_filename))
    await page.locator("[data-download-all]").click()
    return [await asyncio.wait_for(begun.get(), 20) for _ in range(most)]


async def test_who_sees_which_files_and_what_they_may_do(people: People) -> None:
    admin = await people.enter(tenant="globex")
    await store_certificate(admin, Recipient("reader at globex"))
    run = await exported(admin, title="Files of globex")
    part = run["artifacts"][0]

    viewer = await people.enter("viewer", tenant="globex", theme="dark", width=390)
    page = await viewer.open("/artifacts")
    await expect(page.locator("tbody tr").first).to_contain_text("Files of globex")
    assert await page.get_by_role("checkbox").count() == 0
    assert await page.get_by_role("toolbar").count() == 0
    assert await page.get_by_label(re.compile("^Download")).count() == 0
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await viewer.find_no_barriers()
    await page.get_by_label(f"How to decrypt {part['file_name']}").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("openssl cms -decrypt")
    assert await dialog.get_by_role("link", name=re.compile("Download|Manifest")).count() == 0
    await viewer.find_no_barriers()
    refused = await viewer.context.request.get(f"{viewer.stack.url}/artifacts/{part['artifact_id']}/download")
    assert (refused.status, "Access denied" in await refused.text()) == (403, True)
    refused = await viewer.context.request.post(
        f"{viewer.stack.url}/artifacts/delete", headers={"Origin": viewer.stack.url},
        form={"artifact": f"{run['run_id']}.{part['artifact_id']}"},
    )  # fmt: skip
    assert refused.status == 403

    operator = await people.enter("operator", tenant="globex")
    page = await operator.open("/artifacts")
    await expect(page.get_by_role("button", name="Download")).to_be_disabled()
    assert await page.get_by_role("button", name="Delete").count() == 0
    await page.get_by_label(f"Select {part['file_name']}").focus()
    await page.keyboard.press("Space")
    await page.keyboard.press("Shift+Tab")
    await expect(page.get_by_role("button", name="Download")).to_be_enabled()
    await operator.find_no_barriers()

    stranger = await people.enter()
    page = await stranger.open("/artifacts")
    await expect(page.get_by_role("heading", name="No files to download")).to_be_visible()
    await stranger.find_no_barriers()
    for path in (f"/artifacts/{part['artifact_id']}/download", f"/artifacts/{run['run_id']}/{part['artifact_id']}"):
        assert (await stranger.context.request.get(stranger.stack.url + path)).status == 404
    for path in ("/artifacts?run_id=nothing", "/artifacts?sort=colour", "/artifacts?after=x"):
        assert (await stranger.context.request.get(stranger.stack.url + path)).status == 422
