"""`cdds jobs` on the whole system."""

import io
import sys
from pathlib import Path

import orjson
import pytest

from tests.cli.exports import cdds
from tests.cli.relay import Relay
from tests.cli.tenants import NIGHTLY, Tenant, fails, json_of


@pytest.fixture
def nightly(tmp_path: Path) -> Path:
    path = tmp_path / "nightly.yaml"
    path.write_text(NIGHTLY)
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_job_from_its_file_to_its_deletion(tenant: Tenant, nightly: Path) -> None:
    tenant.certify()

    created = json_of("jobs", "create", nightly)
    assert created["settings"]["schedule"] == {"kind": "daily", "at": "02:00"}
    assert [job["id"] for job in json_of("jobs", "list", "--source", "ucs", "--text", "NIGHTLY")] == [created["id"]]
    assert json_of("jobs", "list", "--type", "interaction") == []

    edited = json_of("jobs", "edit", "nightly", "--set", "schedule.at=03:30", "--set", "labels.team=ops")
    assert (edited["version"], edited["settings"]["schedule"]["at"]) == (2, "03:30")
    write(nightly, NIGHTLY.replace("contacts", "customers"))
    replaced = json_of("jobs", "edit", "nightly", nightly)
    assert (replaced["settings"]["title"], replaced["settings"]["labels"]) == ("Nightly customers", {})

    assert json_of("jobs", "suspend", "nightly")["state"] == "suspended"
    missed = json_of("jobs", "resume", "nightly", "--dry-run", "--missed", "all")
    assert missed["requested"] == []
    assert json_of("jobs", "resume", "nightly", "--missed", "latest")["state"] == "active"

    fails(cdds("jobs", "delete", "nightly"), 1, "give --yes")
    assert tenant.job(created["id"])["state"] == "active"
    assert cdds("jobs", "delete", "nightly", "--yes").code == 0
    assert json_of("jobs", "list") == []


def test_what_show_writes_can_be_submitted_again(tenant: Tenant, tmp_path: Path) -> None:
    tenant.certify()
    first = tenant.submit(overlap="skip", labels={"team": "ops"}, fields=["ContactId"])

    shown = cdds("jobs", "show", first["id"], "--settings")
    again = json_of("jobs", "create", write(tmp_path / "again.yaml", shown.out))

    assert again["id"] != first["id"]
    assert again["settings"] == first["settings"]
    assert "retry" in shown.out
    assert "catchup" not in shown.out, "what is so by default is left out"


def test_a_clone_is_printed_or_submitted(tenant: Tenant) -> None:
    tenant.certify()
    first = tenant.submit(key="first")

    printed = cdds("jobs", "clone", "first", "--set", "title=Copy")
    assert printed.code == 0
    assert "title: Copy" in printed.out
    assert "key" not in printed.out
    assert len(json_of("jobs", "list")) == 1

    copy = json_of("jobs", "clone", "first", "--set", "title=Copy", "--submit")
    assert copy["settings"] == {**first["settings"], "key": None, "title": "Copy"}


def test_a_preview_stores_nothing(tenant: Tenant, nightly: Path) -> None:
    found = json_of("jobs", "preview", nightly, "--zone", "Europe/Berlin")
    assert len(found["slots"]) == 10
    assert found["certificate_required"]
    told = cdds("jobs", "preview", nightly, "--zone", "Europe/Berlin")
    assert "cdds certificates add" in told.out
    assert "Run (Europe/Berlin)" in told.out
    assert json_of("jobs", "list") == []


def test_settings_come_from_standard_input_too(tenant: Tenant, nightly: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"title": "Žluť 😀", "source": "ucs", "type": "contact", "schedule": {"kind": "hourly", "every": 1},
                "timeframe": {"kind": "all"}}  # fmt: skip
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(orjson.dumps(settings))))
    tenant.certify()

    assert json_of("jobs", "create", "-")["settings"]["title"] == "Žluť 😀"


# --- names ----------------------------------------------------------------------------------------------------------


def test_jobs_are_called_by_id_key_or_the_beginning_of_their_title(tenant: Tenant) -> None:
    tenant.certify()
    one = tenant.submit(title="Nightly contacts", key="contacts")
    other = tenant.submit(title="Nightly customers")
    tenant.submit(title="contacts of yesterday")

    def called(name: str) -> str:
        return json_of("jobs", "show", name)["id"]

    assert called(one["id"]) == called(one["id"].upper()) == called("contacts") == one["id"]
    assert called("nightly CU") == called(other["id"][:8]) == other["id"]
    fails(cdds("jobs", "show", "nightly"), 1, "any of 2 jobs", one["id"], other["id"], "key contacts")
    fails(cdds("jobs", "show", "weekly"), 1, "there is no job 'weekly'", "cdds jobs list")


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("daily", "dayly", ":5: /schedule"),
        ("title: Nightly contacts", "titel: Nightly", ":2: /titel: Extra inputs are not permitted. Remove this field"),
        ("title: Nightly contacts\n", "", ":1: /title: Field required. Add this field."),
        ("type: contact", "type: calls", ":4: /type: ucs has no type 'calls'. Use one of: contact, interaction."),
        (
            "type: contact",
            "type: contact\ntype: interaction",
            ":5: /type: is written twice, first in line 4. Keep one.",
        ),
        ("{kind: daily", "{kind: daily,,", ":5: /: is not YAML"),
        ("type: contact", "type: !!binary aGk=", ":4: /type: has the tag"),
        (NIGHTLY, "- 1\n", ":1: /: Input should be"),
        (NIGHTLY, "", "is empty"),
        (NIGHTLY, f"{NIGHTLY}---\n{NIGHTLY}", ":8: /: has several documents. Put one document into a file."),
        (NIGHTLY, "a: &a [*a]\n", "nested too deeply"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_place(
    tenant: Tenant, nightly: Path, before: str, after: str, said: str
) -> None:
    tenant.certify()
    write(nightly, NIGHTLY.replace(before, after))

    fails(cdds("jobs", "create", nightly), 1, f"{nightly}{said}" if said[0] == ":" else said)
    assert json_of("jobs", "list") == []


def test_what_the_service_refuses_is_told_with_its_remedy(tenant: Tenant, nightly: Path) -> None:
    fails(cdds("jobs", "create", nightly), 1, "no valid certificate")
    tenant.certify()
    assert cdds("jobs", "create", nightly).code == 0
    fails(cdds("jobs", "create", nightly), 1, f"{nightly}:1: /key: another job has the key nightly. Use another key.")
    fails(cdds("jobs", "edit", "nightly", "--set", "retry.attempts=11"), 1, "/retry/attempts")
    fails(cdds("jobs", "edit", "nightly", "--set", "retry"), 1, "NAME=VALUE")
    fails(cdds("jobs", "list", "--sort", "colour"), 1, "/query/sort", "Use one of")
    assert cdds("jobs", "edit", "nightly").code == 2
    assert cdds("jobs", "backfill", "nightly", "--from", "yesterday", "--to", "2026-01-01").code == 2
    fails(cdds("jobs", "show", "nightly", "--token", "x"), 1, "401")
    fails(cdds("jobs", "show", "nightly", "--token", "é"), 1, "--token")
    fails(cdds("jobs", "suspend", "nightly", "--token", tenant.token("viewer")), 1, "role operator")


def test_a_one_time_job_is_not_edited(tenant: Tenant) -> None:
    tenant.certify()
    job = tenant.submit(schedule={"kind": "once"}, start="immediately")

    fails(cdds("jobs", "edit", job["id"], "--set", "title=Other"), 1, "one-time job can't be edited", "clone it")


# --- lost answers and races -----------------------------------------------------------------------------------------


def test_a_job_whose_answer_is_lost_is_submitted_once(tenant: Tenant, relay: Relay, nightly: Path) -> None:
    tenant.certify()
    relay.lost = ["POST", "POST"]

    created = json_of("jobs", "create", nightly)

    keys = [headers["idempotency-key"] for headers in relay.sent("POST")]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert [job["id"] for job in json_of("jobs", "list")] == [created["id"]]


def test_changes_and_deletions_whose_answers_are_lost_are_known_to_be_done(
    tenant: Tenant, relay: Relay, nightly: Path
) -> None:
    tenant.certify()
    cdds("jobs", "create", nightly)

    relay.lost = ["PUT"]
    changed = json_of("jobs", "edit", "nightly", write(nightly, NIGHTLY.replace("02:00", "05:00")))
    assert (changed["version"], changed["settings"]["schedule"]["at"]) == (2, "05:00")
    relay.lost = ["PATCH"]
    assert json_of("jobs", "edit", "nightly", "--set", "title=Other")["settings"]["title"] == "Other"
    relay.lost = ["DELETE"]
    assert cdds("jobs", "delete", "nightly", "--yes").code == 0
    assert [headers["if-match"] for headers in relay.sent("DELETE")] == ['"3"', '"3"']


def test_somebody_who_is_faster_is_not_overwritten(tenant: Tenant, relay: Relay, nightly: Path) -> None:
    job = json_of_created(tenant, nightly)

    def change() -> None:
        with tenant.api() as api:
            current = api.get(f"/jobs/{job}").headers["etag"]
            assert api.patch(f"/jobs/{job}", json={"title": "Theirs"}, headers={"If-Match": current}).is_success

    relay.before["PUT"] = change
    fails(cdds("jobs", "edit", "nightly", nightly), 1, "somebody else changed the job")
    relay.before["DELETE"] = change
    with tenant.api() as api:
        api.patch(f"/jobs/{job}", json={"title": "Ours"}, headers={"If-Match": "*"})
    fails(cdds("jobs", "delete", "nightly", "--yes"), 1, "read it again")
    assert tenant.job(job)["settings"]["title"] == "Theirs"


def json_of_created(tenant: Tenant, path: Path) -> str:
    tenant.certify()
    return json_of("jobs", "create", path)["id"]


# --- backfills ------------------------------------------------------------------------------------------------------


def test_a_backfill_is_planned_followed_and_ended(tenant: Tenant, nightly: Path) -> None:
    job = json_of_created(tenant, nightly)
    month = ("--from", "2026-01-01", "--to", "2026-02-01")

    planned = json_of("jobs", "backfill", "nightly", *month, "--dry-run")
    assert len(planned["slots"]) == 31
    assert json_of("jobs", "backfills", "nightly") == []
    fails(cdds("jobs", "cancel-backfill", "nightly"), 1, "0 backfills of the job are under way")

    asked = json_of("jobs", "backfill", "nightly", *month, "--max-parallel", "2", "--reprocess", "all")
    assert asked["max_parallel"] == 2
    assert json_of("jobs", "cancel-backfill", "nightly")["state"] == "cancelled"
    (listed,) = json_of("jobs", "backfills", job)
    assert (listed["id"], listed["state"]) == (asked["id"], "cancelled")
    assert asked["id"] in cdds("jobs", "backfills", "nightly").out
