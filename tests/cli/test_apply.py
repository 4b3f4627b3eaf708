"""`cdds apply` and `cdds export` on the whole system."""

import io
import sys
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
import yaml

from tests.cli.exports import Told, cdds
from tests.cli.relay import Relay
from tests.cli.tenants import Tenant, fails, json_of

MANY = 1000


def job(key: str, **changes: Any) -> dict[str, Any]:
    return {
        "key": key, "title": key.title(), "source": "ucs", "type": "contact",
        "schedule": {"kind": "daily", "at": "02:00"}, "timeframe": {"kind": "last", "unit": "day"}, **changes,
    }  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "jobs.yaml"


def write(file: Path, *jobs: dict[str, Any]) -> Path:
    file.write_text(yaml.safe_dump({"jobs": list(jobs)}, sort_keys=False))
    return file


def applied(*arguments: Any) -> dict[str, str]:
    """What became of each job."""
    return {one["key"]: one["outcome"] or one["change"] for one in json_of("apply", "-f", *arguments)["jobs"]}


def test_jobs_become_what_the_file_says(tenant: Tenant, file: Path) -> None:
    tenant.certify()
    assert applied(write(file, job("one"), job("two")), "--plan") == {"one": "create", "two": "create"}
    assert json_of("jobs", "list") == []

    assert applied(file) == {"one": "created", "two": "created"}
    assert applied(file) == {"one": "unchanged", "two": "unchanged"}
    write(file, job("one", labels={"team": "ops"}, schedule={"kind": "hourly", "every": 6}), job("three"))
    told = cdds("apply", "-f", file, "--plan")
    assert told.code == 0
    for line in (
        "~ one  One", '    schedule.kind: "daily" → "hourly"', '    schedule.at: "02:00" → —',
        "    schedule.every: — → 6", '    labels.team: — → "ops"', "+ three  Three", "1 to create, 1 to change, 0 unch",
    ):  # fmt: skip
        assert line in told.out
    assert applied(file) == {"one": "changed", "three": "created"}
    assert {one["settings"]["key"]: one["version"] for one in json_of("jobs", "list")} == {
        "one": 2, "two": 1, "three": 1,
    }  # fmt: skip


def test_defaults_that_are_written_change_nothing(tenant: Tenant, file: Path) -> None:
    tenant.certify()
    assert applied(write(file, job("one"))) == {"one": "created"}
    whole = json_of("jobs", "show", "one")["settings"]
    assert whole["overlap"] == "buffer_all", "the default of the timeframe `last`"

    assert applied(write(file, whole)) == {"one": "unchanged"}
    file.write_bytes(orjson.dumps({"jobs": [{**whole, "catchup": {"window": "P1W"}, "description": ""}]}))
    assert applied(file) == {"one": "unchanged"}


def test_what_export_writes_changes_nothing(tenant: Tenant, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant.certify()
    tenant.submit(title="No key")
    tenant.submit(key="once", schedule={"kind": "once"}, start="immediately")
    tenant.submit(
        key="skips", timeframe={"kind": "last", "unit": "hour"}, overlap="buffer_one", description="a\nb: c\n"
    )
    tenant.submit(key="yes", title="on: [off] 06:30 ~ #", labels={"no": "0x10"}, split_bytes=65536)

    for form in ("yaml", "json"):
        told = cdds("export", "-o", form)
        assert told.code == 0
        assert "1 job(s) without a key are left out" in told.err
        file.write_text(told.out)
        assert applied(file, "--prune") == {"once": "unchanged", "skips": "unchanged", "yes": "unchanged"}
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(cdds("export", "--job", "yes").out.encode())))
    assert applied("-") == {"yes": "unchanged"}
    fails(cdds("export", "--job", "No key"), 1, "has no key")


def test_only_jobs_with_a_key_are_pruned_and_none_in_progress(tenant: Tenant, file: Path) -> None:
    tenant.certify()
    tenant.submit(title="No key")
    tenant.submit(key="old")
    busy = tenant.submit(key="busy")
    with tenant.source_locked():
        run = json_of("jobs", "run", "busy")["run_id"]
        write(file, job("one"))
        assert applied(file) == {"one": "created"}
        fails_with_plan(cdds("apply", "-f", file, "--prune"), "Delete 2 job(s): busy, old?", "give --yes")

        told = cdds("apply", "-f", file, "--prune", "--yes")
        assert told.code == 1
        assert f"busy: failed: The run {run} is in progress: wait for its end, or cancel it." in told.out
        assert "1 deleted, 1 unchanged, 1 failed." in told.out
        json_of("runs", "cancel", run)
    assert {one["settings"]["key"] for one in json_of("jobs", "list")} == {None, "busy", "one"}
    assert tenant.job(busy["id"])["state"] == "active"


def fails_with_plan(told: Told, *said: str) -> None:
    assert told.code == 1, told
    for part in said:
        assert part in told.err


def test_one_time_jobs_are_submitted_once_and_never_edited(tenant: Tenant, file: Path) -> None:
    tenant.certify()
    fixed = {"kind": "fixed", "from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}
    once = job("once", schedule={"kind": "once"}, start="immediately", timeframe=fixed)
    assert applied(write(file, once)) == {"once": "created"}
    assert applied(file) == {"once": "unchanged"}

    told = cdds("apply", "-f", write(file, {**once, "title": "Other"}, job("two")))
    assert told.code == 1
    assert "a one-time job is never edited once it was submitted" in told.out
    assert "1 created" in told.out
    told = cdds("apply", "-f", write(file, job("two", schedule={"kind": "once"}, start="immediately")))
    assert told.code == 1
    assert "can't become a one-time job" in told.out
    assert {one["version"] for one in json_of("jobs", "list")} <= {1, 2}


# --- what is wrong --------------------------------------------------------------------------------------------------

GOOD = (
    "jobs:\n"
    "- {key: good, title: Good, source: ucs, type: contact,"
    " schedule: {kind: hourly, every: 1}, timeframe: {kind: all}}\n"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "- {key: bad, colour: red}\n", ":3: /jobs/1/colour: Extra inputs are not permitted. Remove this"),
        (GOOD + "- {key: bad, colour: red}\n", ":3: /jobs/1/title: Field required. Add this field."),
        (GOOD.replace("key: good, ", ""), ":2: /jobs/0/key: is missing. Give the job a key"),
        (GOOD + GOOD.partition("\n")[2], ":3: /jobs/1/key: the key good belongs to the job in"),
        (GOOD.replace("every: 1", "every: 5"), ":2: /jobs/0/schedule/every: Input should be 1, 2, 3"),
        (GOOD.replace("ucs", "usc"), ":2: /jobs/0/source: there is no source 'usc'. Use one of:"),
        (
            GOOD.replace("all}}", "all}, recipients: [" + "ab" * 32 + "]}"),
            ":2: /jobs/0/recipients: no valid certificate",
        ),
        (GOOD.replace("title: Good", "title: Good, title: Better"), ":2: /jobs/0/title: is written twice"),
        (GOOD.replace("}}", "}"), ":3: /: is not YAML"),
        (GOOD + "---\n" + GOOD, ":4: /: has several documents"),
        (GOOD.partition("\n")[2], ":1: /: has no `jobs:`. Write `jobs:` with a list"),
        (GOOD + "defaults: {}\n", ":3: /defaults: does not belong here"),
        ("jobs: {}\n", ":1: /jobs: is no list"),
        ("jobs: [1]\n", ":1: /jobs/0: Input should be"),
    ],
)
def test_nothing_is_applied_when_anything_is_wrong(tenant: Tenant, tmp_path: Path, text: str, said: str) -> None:
    tenant.certify()
    write(tmp_path / "a.yaml", job("first"))
    bad = tmp_path / "b.yaml"
    bad.write_text(text)

    told = cdds("apply", "-f", tmp_path, "--prune", "--yes")

    fails(told, 1, f"{bad}{said}", "Nothing was applied.")
    assert json_of("jobs", "list") == []
    faults = cdds("apply", "-f", tmp_path, "--output", "json").json["errors"]
    assert any(f"{bad}:{fault['line']}: {fault['pointer']}: ".startswith(f"{bad}{said}"[:60]) for fault in faults)


def test_files_that_are_not_there_and_jobs_without_certificate_are_refused(tenant: Tenant, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fails(cdds("apply", "-f", tmp_path / "empty"), 1, "has no files")
    fails(cdds("apply", "-f", tmp_path / "none.yaml"), 1, "no such file")
    assert cdds("apply").code == 2
    file = write(tmp_path / "jobs.yaml", job("one"))
    fails(cdds("apply", "-f", file), 1, ":2: /jobs/0/encryption", "cdds certificates add")


def test_an_end_that_has_come_does_not_keep_a_job_from_other_changes(tenant: Tenant, file: Path) -> None:
    """As the service does: what an edit leaves as it was is not refused because time passed."""
    tenant.certify()
    assert applied(write(file, job("one", ends_at="2999-01-01T00:00:00Z"))) == {"one": "created"}
    past = "2026-01-01T00:00:00Z"
    with psycopg.connect(tenant.stack.dsn()) as connection:
        connection.execute(
            "UPDATE job_api.jobs SET settings = settings || jsonb_build_object('ends_at', %s::text) WHERE tenant = %s",
            (past, tenant.name),
        )

    assert applied(write(file, job("one", title="Other", ends_at=past))) == {"one": "changed"}
    told = cdds("apply", "-f", write(file, job("one", ends_at="2026-01-02T00:00:00Z")))
    fails_with_plan(told, "/jobs/0/ends_at: is in the past")


# --- lost answers and races -----------------------------------------------------------------------------------------


def test_lost_answers_change_nothing(tenant: Tenant, relay: Relay, file: Path) -> None:
    tenant.certify()
    relay.lost = ["POST", "POST", "POST", "POST"]
    assert applied(write(file, job("one"), job("two"))) == {"one": "created", "two": "created"}
    relay.lost = ["PUT", "PUT"]
    assert set(applied(write(file, job("one", title="A"), job("two", title="B"))).values()) <= {"changed", "unchanged"}
    relay.lost = ["DELETE"]
    assert applied(write(file, job("one", title="A")), "--prune", "--yes") == {"one": "unchanged", "two": "deleted"}
    assert [(one["version"], one["settings"]["title"]) for one in json_of("jobs", "list")] == [(2, "A")]


def test_what_was_interrupted_is_finished_by_the_next_call(tenant: Tenant, relay: Relay, file: Path) -> None:
    tenant.certify()
    write(file, *(job(f"job-{number}") for number in range(20)))
    relay.away_after = 10

    told = cdds("apply", "-f", file)

    assert told.code == 4
    assert "does not answer" in told.err
    assert "of 20 changes were made; apply the same files again" in told.err
    relay.away_after = None
    begun = len(json_of("jobs", "list"))
    assert 0 < begun < 20
    assert sorted(applied(file).values()) == ["created"] * (20 - begun) + ["unchanged"] * begun


def test_what_somebody_else_changed_meanwhile_is_planned_anew(tenant: Tenant, relay: Relay, file: Path) -> None:
    tenant.certify()
    applied(write(file, job("one")))
    (one,) = json_of("jobs", "list")

    def patch(**changes: Any) -> None:
        with tenant.api() as api:
            assert api.patch(f"/jobs/{one['id']}", json=changes, headers={"If-Match": "*"}).is_success

    relay.before["PUT"] = lambda: patch(labels={"theirs": "x"})
    told = cdds("apply", "-f", write(file, job("one", title="Ours")))
    assert told.code == 0, told
    assert "one: changed: changed by somebody else meanwhile" in told.out
    settings = tenant.job(one["id"])["settings"]
    assert (settings["title"], settings["labels"]) == ("Ours", {})

    relay.before["PUT"] = lambda: patch(title="Same")
    assert applied(write(file, job("one", title="Same"))) == {"one": "unchanged"}
    relay.before["DELETE"] = lambda: patch(title="Theirs")
    assert applied(write(file, job("other")), "--prune", "--yes") == {"other": "created", "one": "deleted"}


def test_a_job_that_somebody_else_submitted_meanwhile_is_changed(tenant: Tenant, relay: Relay, file: Path) -> None:
    tenant.certify()
    made: list[dict[str, Any]] = []
    write(file, job("one", title="Ours"))
    # The first POST is the preview, and the job comes to be after it.
    relay.before["POST"] = lambda: relay.before.update(POST=lambda: made.append(tenant.submit(**job("one"))))

    assert applied(file) == {"one": "changed"}
    assert tenant.job(made[0]["id"])["settings"]["title"] == "Ours"


def test_a_thousand_jobs_are_applied_twice(tenant: Tenant, file: Path) -> None:
    tenant.certify()
    write(file, *(job(f"job-{number}") for number in range(MANY)))

    assert json_of("apply", "-f", file)["counts"] == {"created": MANY}
    assert json_of("apply", "-f", file)["counts"] == {"unchanged": MANY}
    assert {one["version"] for one in json_of("jobs", "list", "--limit", "0")} == {1}
