"""What may be submitted: every rule of settings and certificates, on its own."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from services.job_api import domain
from services.job_api.domain import Certificate, CertificateRefused, CertificateRequired, SettingsRefused
from shared.events import Job, JobState, SuspendedReason
from shared.sources import Source
from tests.job_api import certificates
from tests.job_api.certificates import NOW
from tests.job_api.jobs import settings, sources

JOB = UUID("0b9c5a52-8f0e-4d7b-9a53-6f1f2f6f4a01")
VALID = Certificate("f" * 64, "", "CN=client", NOW - timedelta(days=1), NOW + timedelta(days=1))
EXPIRED = Certificate("e" * 64, "", "CN=client", NOW - timedelta(days=9), NOW - timedelta(days=1))


def new_job(known: dict[str, Source] | None = None, having: tuple[Certificate, ...] = (VALID,), **changes: Any) -> Job:
    return domain.new_job(
        settings(**changes), job_id=JOB, created_by="alice", now=NOW,
        sources=sources() if known is None else known, certificates=having,
    )  # fmt: skip


def at(**distance: float) -> str:
    return (NOW + timedelta(**distance)).isoformat()


@pytest.mark.parametrize(
    ("changes", "pointer", "remedy"),
    [
        pytest.param({"source": "nowhere"}, "/source", "flights, ucs", id="unknown source"),
        pytest.param({"type": "fax"}, "/type", "contact, interaction", id="unknown type"),
        pytest.param({"media_types": ["fax"]}, "/media_types", "voice, chat", id="unknown media type"),
        pytest.param({"type": "contact", "media_types": ["voice"]}, "/media_types", '"all"', id="none to choose"),
        pytest.param(
            {"schedule": {"kind": "once"}, "start": at(seconds=-1)}, "/start", "immediately", id="start in the past"
        ),
        pytest.param({"ends_at": at()}, "/ends_at", "later time", id="ends now"),
        pytest.param({"ends_at": at(days=-1)}, "/ends_at", "later time", id="ended already"),
        pytest.param(
            {"timeframe": {"kind": "fixed", "from": at(days=-1), "to": at(seconds=1)}},
            "/timeframe/to", "has passed", id="a fixed timeframe that is not over",
        ),
        pytest.param(
            {"timeframe": {"kind": "fixed", "from": at(days=1), "to": at(days=3)}, "start": at(days=2)},
            "/timeframe/to", "has passed", id="a fixed timeframe that is not over at the start",
        ),
        pytest.param({"recipients": ["a" * 64]}, "/recipients", "GET /certificates", id="unknown recipient"),
        pytest.param({"recipients": ["f" * 64, "e" * 64]}, "/recipients", "GET /certificates", id="expired recipient"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_with_a_pointer_and_a_remedy(
    changes: dict[str, Any], pointer: str, remedy: str
) -> None:
    with pytest.raises(SettingsRefused) as refused:
        new_job(having=(VALID, EXPIRED), **changes)
    [fault] = refused.value.faults
    assert fault.pointer == pointer
    assert remedy in fault.remedy
    assert fault.message


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(SettingsRefused) as refused:
        new_job(source="nowhere", ends_at=at(days=-1), recipients=["a"])
    assert [fault.pointer for fault in refused.value.faults] == ["/source", "/ends_at", "/recipients"]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="plain"),
        pytest.param({"media_types": ["chat"]}, id="known media type"),
        pytest.param({"start": at(days=-1)}, id="a recurring job may have a start in the past"),
        pytest.param({"ends_at": at(seconds=1)}, id="ends in a moment"),
        pytest.param({"schedule": {"kind": "once"}, "start": at()}, id="once, now"),
        pytest.param({"recipients": ["f" * 64]}, id="a valid recipient"),
        pytest.param({"timeframe": {"kind": "fixed", "from": at(days=-1), "to": at()}}, id="over just now"),
        pytest.param(
            {"timeframe": {"kind": "fixed", "from": at(days=1), "to": at(days=2)}, "start": at(days=2)},
            id="over when the job runs first",
        ),
    ],
)
def test_settings_that_work_make_an_active_job(changes: dict[str, Any]) -> None:
    job = new_job(**changes)
    assert (job.version, job.state, job.suspended_reason, job.created_by) == (1, JobState.ACTIVE, None, "alice")
    assert job.created_at == job.updated_at == NOW
    assert job.settings == settings(**changes)


def test_a_source_of_other_tenants_is_unknown() -> None:
    with pytest.raises(SettingsRefused, match="there is no source 'flights'"):
        new_job(known={"ucs": sources()["ucs"]}, source="flights", type="flight")


@pytest.mark.parametrize("having", [(), (EXPIRED,)], ids=["none", "only an expired one"])
def test_an_encrypted_job_needs_a_valid_certificate(having: tuple[Certificate, ...]) -> None:
    with pytest.raises(CertificateRequired):
        new_job(having=having)


def test_a_one_time_job_to_run_at_once_is_born_suspended() -> None:
    job = new_job(schedule={"kind": "once"}, start="immediately")
    assert (job.state, job.suspended_reason) == (JobState.SUSPENDED, SuspendedReason.ONE_TIME)


def test_a_completed_one_time_job_is_suspended_for_good_and_only_once() -> None:
    job = new_job(schedule={"kind": "once"}, start=at(days=1))
    done = domain.complete(job, NOW + timedelta(days=1))
    assert done
    assert (done.version, done.state, done.suspended_reason) == (2, JobState.SUSPENDED, SuspendedReason.ONE_TIME)
    assert done.updated_at == NOW + timedelta(days=1)
    assert domain.complete(done, NOW + timedelta(days=2)) is None


def test_a_recurring_job_is_never_completed() -> None:
    assert domain.complete(new_job(), NOW) is None


# --- certificates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "reason"), [pytest.param(m, r, id=n) for n, m, r in certificates.refused()])
def test_a_certificate_that_exports_may_not_be_encrypted_for_is_refused(make: Any, reason: str) -> None:
    # The command line dates its certificates by the real clock.
    now = datetime.now(UTC) if reason in ("1024 bits", "SHA-1", "MD5") else NOW
    with pytest.raises(CertificateRefused, match=reason):
        domain.read_certificate(make(), now)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(certificates.pem, id="PEM"),
        pytest.param(certificates.der, id="DER"),
        pytest.param(lambda: b"Subject: client\n\n" + certificates.pem(), id="PEM with text before it"),
        pytest.param(lambda: certificates.pem().replace(b"\n", b"\r\n"), id="PEM with Windows line ends"),
        pytest.param(
            lambda: certificates.pem(extensions=(certificates.usage(key_encipherment=True),)), id="key encipherment"
        ),
        pytest.param(
            lambda: certificates.pem(extensions=(x509.BasicConstraints(ca=True, path_length=None),)),
            id="self-signed as plain `openssl req -x509` makes it",
        ),
        pytest.param(lambda: certificates.pem(ends=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)), id="no expiry"),
    ],
)
def test_a_good_certificate_is_accepted(text: Any) -> None:
    accepted = domain.read_certificate(text(), NOW)
    assert accepted.subject == "CN=client"
    loaded = x509.load_pem_x509_certificate(accepted.pem.encode())
    assert accepted.fingerprint == loaded.fingerprint(hashes.SHA256()).hex()
    assert accepted.valid_at(NOW)
    assert accepted.not_after == loaded.not_valid_after_utc


@pytest.mark.parametrize(
    ("bits", "left", "words"),
    [
        pytest.param(2048, timedelta(days=365), ["2048 bits"], id="a short key"),
        pytest.param(3072, timedelta(days=365), [], id="a good key"),
        pytest.param(3072, timedelta(days=30, seconds=1), [], id="more than 30 days"),
        pytest.param(3072, timedelta(days=30), ["in 30 days"], id="30 days"),
        pytest.param(3072, timedelta(days=14), ["in 14 days"], id="14 days"),
        pytest.param(3072, timedelta(days=7), ["in 7 days"], id="7 days"),
        pytest.param(3072, timedelta(hours=1), ["in 0 days"], id="an hour"),
        pytest.param(2048, timedelta(days=7), ["2048 bits", "in 7 days"], id="both"),
        pytest.param(3072, timedelta(0), ["has expired"], id="over"),
    ],
)
def test_the_owner_is_warned_in_time(bits: int, left: timedelta, words: list[str]) -> None:
    ends = NOW + timedelta(days=365)
    accepted = domain.read_certificate(certificates.pem(key=certificates.rsa_key(bits), ends=ends), NOW)
    found = domain.warnings(accepted, ends - left)
    assert len(found) == len(words)
    assert all(word in warning for word, warning in zip(words, found, strict=True))
