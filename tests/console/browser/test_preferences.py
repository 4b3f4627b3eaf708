"""The page of user preferences: certificates, time zone, theme, and who is signed in."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from playwright.async_api import Page, expect

from services.console.domain.validity import grouped
from tests.console.browser.conftest import People, Person
from tests.system.driver import Recipient

HOSTILE = "<img src=x onerror=alert(1)>'\"{{ 7*7 }}<script>alert(2)</script>"


def weak() -> bytes:
    """A certificate for an RSA key of 1024 bits."""
    key = rsa.generate_private_key(65537, 1024)
    strong = Recipient("weak").certificate
    builder = x509.CertificateBuilder(
        strong.issuer, strong.subject, key.public_key(), 1, strong.not_valid_before_utc, strong.not_valid_after_utc
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def key_of(recipient: Recipient) -> str:
    return recipient.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


async def test_certificates_are_added_refused_and_removed(people: People, tmp_path: Path) -> None:
    person = await people.enter()
    page = await person.open("/preferences")
    section = page.locator("#certificates")
    await expect(section).to_contain_text("No certificate yet.")
    await person.find_no_barriers()

    # A file in DER; a subject is what its maker wants, and stays text.
    first = Recipient(HOSTILE[:64], valid_for=timedelta(days=6, hours=12))
    (tmp_path / "first.der").write_bytes(first.certificate.public_bytes(Encoding.DER))
    await page.get_by_label("File").set_input_files(tmp_path / "first.der")
    await page.get_by_role("button", name="Add").click()
    row = section.get_by_role("row").filter(has_text=grouped(first.fingerprint))
    await expect(row).to_contain_text("img src=x onerror=alert(1)")
    await expect(row).to_contain_text("6 days left")
    await expect(row).to_contain_text("The certificate expires in 6 days.")
    await expect(section.get_by_role("status")).to_contain_text("from now on")
    await expect(section.get_by_role("heading", name="Certificates")).to_be_focused()

    # Pasted PEM.
    second = Recipient("second")
    await page.get_by_label("or pasted text").fill(second.pem.decode())
    await page.get_by_role("button", name="Add").click()
    await expect(section.get_by_role("row")).to_have_count(3)
    await expect(section.get_by_role("row").nth(1)).to_contain_text("89 days left")
    await person.find_no_barriers()

    await what_is_refused_says_why_at_its_field(page, section, tmp_path, second)
    await a_private_key_does_not_leave_the_browser(person, tmp_path, second)

    # Removing asks first, and says when none is left.
    dialog = page.get_by_role("dialog")
    for recipient, last in ((first, False), (second, True)):
        row = section.get_by_role("row").filter(has_text=grouped(recipient.fingerprint))
        await row.get_by_role("button", name="Remove").click()
        await expect(dialog).to_contain_text(grouped(recipient.fingerprint))
        await expect(dialog.get_by_text("No valid certificate will be left")).to_have_count(1 if last else 0)
        if last:
            await person.find_no_barriers()
        await dialog.get_by_role("button", name="Remove").click()
        await expect(row).to_have_count(0)
        await expect(section.get_by_role("status")).to_contain_text("The certificate is removed.")
    await expect(section.get_by_role("status")).to_contain_text("No valid certificate is left")
    assert not (await person.api("GET", "/certificates"))["items"]


async def what_is_refused_says_why_at_its_field(page: Page, section: Any, folder: Path, known: Recipient) -> None:
    pasted = page.get_by_label("or pasted text")
    for text, reason in [
        (Recipient("old", valid_for=timedelta(hours=-1)).pem.decode(), "The certificate has expired"),
        (weak().decode(), "The RSA key has 1024 bits; use 2048 or more."),
        ("garbage", "This is not an X.509 certificate in PEM or DER form"),
    ]:
        await pasted.fill(text)
        await page.get_by_role("button", name="Add").click()
        await expect(page.locator("#certificate-pasted-error")).to_contain_text(reason)
        await expect(pasted).to_be_focused()
        await expect(pasted).to_have_attribute("aria-invalid", "true")
    (folder / "several.pem").write_bytes(known.pem + Recipient("another").pem)
    await page.get_by_label("File").set_input_files(folder / "several.pem")
    await page.get_by_role("button", name="Add").click()
    await expect(page.locator("#certificate-file-error")).to_contain_text("several certificates")
    await page.get_by_role("button", name="Add").click()
    await expect(page.locator("#certificate-file-error")).to_contain_text("Choose a file, or paste a certificate.")
    await expect(section.get_by_role("row")).to_have_count(3)


async def a_private_key_does_not_leave_the_browser(person: Person, folder: Path, recipient: Recipient) -> None:
    page, key = person.page, key_of(recipient)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method))
    pasted, file = page.get_by_label("or pasted text"), page.get_by_label("File")
    await pasted.fill(key)
    await expect(page.locator("#certificate-pasted-error")).to_contain_text("private key, and was not sent")
    await expect(pasted).to_have_value("")
    (folder / "key.pem").write_text(key)
    await file.set_input_files(folder / "key.pem")
    await expect(page.locator("#certificate-file-error")).to_contain_text("private key, and was not sent")
    await expect(file).to_have_value("")
    await person.find_no_barriers()
    assert not sent
    # Without scripts it is refused by the API, whose words stand at the field; the key comes back nowhere.
    answer = await person.context.request.post(
        f"{person.stack.url}/preferences/certificates", headers={"Origin": person.stack.url}, multipart={"pasted": key}
    )
    text = await answer.text()
    assert answer.status == 422
    assert "The file holds a private key. Send only the certificate, and treat that key as known." in text
    assert key.splitlines()[3] not in text


async def test_zone_and_theme_are_kept_and_applied_at_once(people: People) -> None:
    person = await people.enter(zone="Europe/Berlin")
    page = await person.open("/preferences")
    zone = page.get_by_label("Zone", exact=True)
    await expect(zone).to_have_value("Europe/Berlin")
    await zone.fill("Middle/Earth")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator("#zone-error")).to_contain_text("no time zone of the IANA list")
    await expect(zone).to_have_value("Middle/Earth")
    await person.find_no_barriers()
    for name, shown in [("America/St_Johns", "N"), ("Etc/GMT+5", "-05"), ("UTC", "UTC")]:
        await zone.fill(name)
        await page.get_by_role("button", name="Save").click()
        await expect(page.locator("#zone-error")).to_be_empty()
        await expect(zone).to_have_value(name)
        await expect(page.locator("#zone-now")).to_contain_text(shown)

    root = page.locator("html")
    for name, theme in [("Dark", "dark"), ("As the system", "system"), ("Light", "light"), ("Dark", "dark")]:
        async with page.expect_response("**/preferences/theme"):
            await page.get_by_label(name).check()
        await expect(root).to_have_attribute("data-theme", theme)
    await person.open("/jobs")
    await expect(root).to_have_attribute("data-theme", "dark")
    assert (
        await page.evaluate(
            "getComputedStyle(document.body).colorScheme || getComputedStyle(document.documentElement).colorScheme"
        )
        == "dark"
    )
    cookies = {cookie["name"]: cookie for cookie in await person.context.cookies()}
    assert {name: cookies[name]["sameSite"] for name in ("cdds_zone", "cdds_theme")} == {
        "cdds_zone": "Lax",
        "cdds_theme": "Lax",
    }
    await person.open("/preferences")
    await person.find_no_barriers()


async def test_what_a_viewer_sees_on_a_phone(people: People) -> None:
    admin = await people.enter(width=390)
    certificate = Recipient("seen by all")
    await admin.api("POST", "/certificates", content=certificate.pem)
    viewer = await people.enter("viewer", tenant=admin.tenant, theme="dark", width=390)
    page = await viewer.open("/preferences")
    await expect(page.get_by_text("CN=seen by all")).to_be_visible()
    assert await page.get_by_role("button", name="Add").count() == 0
    assert await page.get_by_role("button", name="Remove").count() == 0
    who = page.get_by_role("region", name="Signed in")
    for said in (f"viewer@{admin.tenant}", admin.tenant, "viewer", "cdds.read"):
        await expect(who).to_contain_text(said)
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await viewer.find_no_barriers()
    refused = await viewer.context.request.post(
        f"{viewer.stack.url}/preferences/certificates", headers={"Origin": viewer.stack.url},
        multipart={"pasted": certificate.pem.decode()},
    )  # fmt: skip
    assert refused.status == 403
    stranger = await people.enter()
    page = await stranger.open("/preferences")
    await expect(page.get_by_text("No certificate yet.")).to_be_visible()
    address = f"{stranger.stack.url}/preferences/certificates/{certificate.fingerprint}/remove"
    assert (await stranger.context.request.get(address)).status == 404
    assert (await stranger.context.request.post(address, headers={"Origin": stranger.stack.url})).status == 404
