"""Decisions about jobs: what may be submitted, and what becomes of a job."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from services.job_api.domain import jobs
from services.job_api.domain.certificates import Certificate
from services.job_api.domain.errors import CertificateRequired, SettingsMalformed, SettingsRefused, VersionMismatch
from services.job_api.domain.jobs import Facts
from services.job_api.domain.settings import merged
from shared.events import Job, JobState, SuspendedReason
from shared.sources import Source
from tests.job_api.certificates import NOW
from tests.job_api.jobs import settings, sources

JOB = UUID("0b9c5a52-8f0e-4d7b-9a53-6f1f2f6f4a01")
VALID = Certificate("f" * 64, "", "CN=client", NOW - timedelta(days=1), NOW + timedelta(days=1))
EXPIRED = Certificate("e" * 64, "", "CN=client", NOW - timedelta(days=9), NOW - timedelta(days=1))


def new_job(known: dict[str, Source] | None = None, having: tuple[Certificate, ...] = (VALID,), **changes: Any) -> Job:
    return jobs.new_job(
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
            {"timeframe": {"kind": "fixed", "from": at(days=-1), "to": at(hours=4, seconds=1)}},
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
        new_job(source="nowhere", ends_at=at(days=-1), recipients=["a" * 64])
    assert [fault.pointer for fault in refused.value.faults] == ["/source", "/ends_at", "/recipients"]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="plain"),
        pytest.param({"media_types": ["chat"]}, id="known media type"),
        pytest.param({"start": at(days=-1)}, id="a recurring job may have a start in the past"),
        pytest.param({"ends_at": at(hours=4, seconds=1)}, id="ends right after its first slot"),
        pytest.param({"schedule": {"kind": "once"}, "start": at(seconds=1)}, id="once, in a moment"),
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


# --- submitting, by the clock and the operator's file -------------------------------------------------------------

ONCE: dict[str, Any] = {"schedule": {"kind": "once"}}
SINCE = {"kind": "since_last_run", "from": at(days=-1)}


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        pytest.param({**ONCE, "start": at()}, "/start", id="once, now"),
        pytest.param({"timeframe": {**SINCE, "from": at(seconds=1)}}, "/timeframe/from", id="since the future"),
        pytest.param({"ends_at": at(hours=4)}, "/ends_at", id="ends at its first slot"),
        pytest.param({"start": at(days=1, hours=1), "ends_at": at(days=1, hours=2)}, "/ends_at", id="no slot between"),
        pytest.param({"encryption": "none"}, "/encryption", id="plaintext where it is not allowed"),
        pytest.param(
            {"timeframe": {"kind": "fixed", "from": at(days=-1), "to": at(seconds=1)}, "start": "immediately"},
            "/timeframe/to", id="a fixed timeframe that is not over at submission",
        ),
    ],
)  # fmt: skip
def test_settings_that_have_no_sense_now_are_refused(changes: dict[str, Any], pointer: str) -> None:
    with pytest.raises(SettingsRefused) as refused:
        new_job(**changes)
    assert [fault.pointer for fault in refused.value.faults] == [pointer]
    assert all(fault.remedy for fault in refused.value.faults)


def test_plaintext_is_the_operators_to_allow_and_needs_no_certificate() -> None:
    open_source = {"ucs": sources()["ucs"].model_copy(update={"allow_plaintext": True})}
    assert new_job(open_source, having=(), encryption="none").settings.encryption == "none"


def test_a_job_for_recipients_needs_one_of_them_valid_when_it_is_resumed() -> None:
    job = new_job(recipients=["f" * 64])
    suspended = jobs.suspend(facts_of(job), actor="alice", expected=None)
    assert suspended
    later = facts_of(suspended.job, having=(EXPIRED, replace(VALID, fingerprint="d" * 64)))
    with pytest.raises(CertificateRequired):
        jobs.resume(later, "none", actor="alice", expected=None)


# --- edits --------------------------------------------------------------------------------------------------------


def facts_of(job: Job, now: datetime = NOW, having: tuple[Certificate, ...] = (VALID,)) -> Facts:
    return Facts(tenant="acme", job=job, now=now, certificates=having)


def edited(job: Job, now: datetime, **changes: Any) -> Job:
    decision = jobs.edit(
        facts_of(job, now), settings(**changes), actor="bob", expected=None, sources=sources()
    )  # fmt: skip
    assert decision
    return decision.job


LATE = NOW + timedelta(hours=23)


@pytest.mark.parametrize(
    "times",
    [
        pytest.param({"ends_at": at(hours=5)}, id="it has ended"),
        pytest.param({"start": at(hours=1), "ends_at": at(hours=5)}, id="it has begun and ended"),
        pytest.param({"start": at(days=-3)}, id="it began long ago"),
    ],
)
def test_an_edit_is_not_refused_because_time_passed(times: dict[str, Any]) -> None:
    job = new_job(**times)
    assert edited(job, LATE, title="New", **times).settings.title == "New"


def test_an_edit_of_the_times_is_checked_like_a_submission() -> None:
    job = new_job(ends_at=at(hours=5))
    for times in ({"ends_at": at(hours=6)}, {"ends_at": at(hours=5), "schedule": {"kind": "daily", "at": "00:00"}}):
        with pytest.raises(SettingsRefused, match="/ends_at"):
            edited(job, LATE, **times)


def test_an_edit_tells_what_changed_and_keeps_the_rest_of_the_job() -> None:
    job = new_job()
    decision = jobs.edit(
        facts_of(job, LATE), settings(title="New", jitter="PT1M"), actor="bob", expected=frozenset({1}),
        sources=sources(),
    )  # fmt: skip
    assert decision
    assert decision.detail == {"changed": ["title", "jitter"]}
    changed = decision.job
    assert (changed.version, changed.updated_at, changed.created_at, changed.created_by) == (2, LATE, NOW, "alice")


def test_the_version_that_was_read_must_be_the_jobs() -> None:
    with pytest.raises(VersionMismatch) as refused:
        jobs.edit(facts_of(new_job()), settings(title="N"), actor="a", expected=frozenset({2}), sources=sources())
    assert refused.value.current == 1


# --- merge patches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patch", "changed"),
    [
        ({}, {}),
        ({"title": "N"}, {"title": "N"}),
        ({"labels": {"a": "1"}}, {"labels": {"team": "x", "a": "1"}}),
        ({"labels": {"team": None}}, {"labels": {}}),
        ({"labels": None}, {"labels": {}}),
        ({"schedule": {"every": 6}}, {"schedule": {"kind": "hourly", "every": 6}}),
        ({"schedule": {"kind": "daily", "every": None, "at": "06:00"}}, {"schedule": {"kind": "daily", "at": "06:00"}}),
        ({"media_types": ["chat"]}, {"media_types": ["chat"]}),
        ({"media_types": None, "description": None}, {}),
        ({"catchup": {"mode": "none"}}, {"catchup": {"mode": "none", "window": "P7D"}}),
    ],
)
def test_a_merge_patch_changes_what_it_names(patch: dict[str, Any], changed: dict[str, Any]) -> None:
    before = settings(labels={"team": "x"})
    assert merged(before, patch) == settings(**{"labels": {"team": "x"}, **changed})


def test_a_patch_deeper_than_settings_is_refused_not_followed() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"labels": deep}
    with pytest.raises(SettingsMalformed):
        merged(settings(), deep)
