"""`cdds certificates` and the commands on single files, on the whole system."""

from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.cli.exports import cdds
from tests.cli.relay import Relay
from tests.cli.tenants import Tenant, eventually, fails, json_of


def test_certificates_are_added_listed_and_removed(tenant: Tenant, tmp_path: Path, relay: Relay) -> None:
    pem = tmp_path / "recipient.pem"
    pem.write_bytes(tenant.recipient.pem)
    fingerprint = tenant.recipient.fingerprint

    assert json_of("certificates", "add", pem)["fingerprint"] == fingerprint
    assert [one["fingerprint"] for one in json_of("certificates", "list")] == [fingerprint]
    assert fingerprint in cdds("certificates", "list").out
    fails(cdds("certificates", "remove", fingerprint[:12]), 1, "give --yes")
    relay.lost = ["DELETE"]
    assert json_of("certificates", "remove", fingerprint[:12], "--yes")["fingerprint"] == fingerprint
    assert json_of("certificates", "list") == []
    fails(cdds("certificates", "remove", fingerprint[:12]), 1, "0 certificates")


def test_what_is_no_certificate_is_refused(tenant: Tenant, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    fails(cdds("certificates", "add", file), 1, "there is no such file")
    file.write_text("nothing")
    fails(cdds("certificates", "add", file), 1, "/: ", "Send another certificate")
    key = tenant.recipient.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(tenant.recipient.pem + key)
    fails(cdds("certificates", "add", file), 1, "private key")
    assert json_of("certificates", "list") == []


def test_files_are_listed_downloaded_and_deleted(
    tenant: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tenant.certify().submit(key="contacts")
    assert cdds("jobs", "run", "contacts", "--watch").code == 0

    (file,) = json_of("artifacts", "list", "--job", "contacts", "--available")
    assert (file["job_id"], file["remaining_days"]) == (job["id"], 30)
    listed = cdds("artifacts", "list", "--run", file["run_id"]).out
    assert file["file_name"] in listed
    assert "30 days" in listed
    assert json_of("artifacts", "list", "--gone") == []

    into = tmp_path / "received"
    json_of("artifacts", "download", file["artifact_id"][:8], "--into", into)
    path = into / file["file_name"]
    assert sha256(path.read_bytes()).hexdigest() == file["sha256"]
    fails(cdds("artifacts", "download", file["file_name"], "--into", into), 1, "exists")
    monkeypatch.setenv("CDDS_TOKEN", tenant.token("viewer"))
    fails(cdds("artifacts", "download", file["artifact_id"], "--into", tmp_path), 1, "role operator")
    monkeypatch.setenv("CDDS_TOKEN", tenant.token("admin"))

    fails(cdds("artifacts", "delete", file["artifact_id"]), 1, "for good?", "give --yes")
    assert cdds("artifacts", "delete", file["artifact_id"], "--yes").code == 0
    fails(cdds("artifacts", "download", file["artifact_id"], "--into", tmp_path), 1, "410")
    assert eventually(lambda: json_of("artifacts", "list", "--gone"), what="that history hears of it")
    assert "deleted (requested)" in cdds("artifacts", "list").out
    fails(cdds("artifacts", "delete", "nothing", "--yes"), 1, "0 files are called nothing")
