"""`cdds runs` on the whole system."""

import io
from threading import Thread
from typing import Any
from uuid import uuid4

import orjson
import pytest
from rich.console import Console

from cli.client import Client
from cli.runs import showing, watch
from tests.cli.exports import Told, cdds
from tests.cli.relay import Relay
from tests.cli.tenants import Tenant, eventually, fails, json_of


def lines(told: Told) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in told.out.splitlines()]


def running(run: str) -> None:
    """Wait until a run has started."""

    def look() -> bool:
        return any(one["run_id"] == run for one in json_of("runs", "list", "--state", "running"))

    eventually(look, what=f"the start of {run}")


def test_a_run_is_followed_to_its_end_and_shown(tenant: Tenant) -> None:
    job = tenant.certify().submit(key="contacts")

    told = cdds("jobs", "run", "contacts", "--watch", "--output", "json")

    assert told.code == 0, told
    last = lines(told)[-1]
    assert (last["state"], last["title"]) == ("succeeded", "Contacts")
    assert last["rows"] > 0
    shown = json_of("runs", "show", last["run_id"])
    assert (shown["job_id"], shown["rows"], len(shown["attempts"])) == (job["id"], last["rows"], 1)
    assert {"RunRequested", "RunStarted", "ArtifactStored", "RunSucceeded"} <= {one["type"] for one in shown["events"]}
    text = cdds("runs", "show", last["run_id"][:10]).out
    for part in ("Contacts", "succeeded", "RunSucceeded", shown["artifacts"][0]["file_name"], "days"):
        assert part in text
    assert cdds("runs", "watch", last["run_id"]).code == 0


def test_runs_are_listed_by_all_that_history_filters(tenant: Tenant) -> None:
    job = tenant.certify().submit(labels={"team": "ops"})
    tenant.submit(title="Other")
    assert cdds("jobs", "run", job["id"], "--watch").code == 0
    assert cdds("jobs", "run", "Other", "--watch").code == 0

    def listed(*options: str) -> int:
        return len(json_of("runs", "list", *options))

    assert listed() == 2
    assert listed("--job", "Other") == listed("--text", "oth") == listed("--label", "team:ops") == 1
    assert listed("--state", "succeeded", "--state", "failed") == listed("--trigger", "manual") == 2
    assert listed("--source", "ucs", "--type", "contact", "--requested-from", "2026-01-01") == 2
    assert listed("--state", "failed") == listed("--finished-to", "2026-01-01T00:00:00Z") == 0
    assert listed("--sort", "title", "--limit", "1") == 1
    fails(cdds("runs", "list", "--requested-from", "2026-02-01", "--requested-to", "2026-01-01"), 1, "must be later")
    assert "There are more than these 1" in cdds("runs", "list", "--limit", "1").err
    assert cdds("runs", "list", "--state", "gone").code == 2


def test_a_run_is_cancelled_and_retried(tenant: Tenant) -> None:
    job = tenant.certify().submit()
    with tenant.source_locked():
        run = json_of("jobs", "run", job["id"])["run_id"]
        running(run)
        assert json_of("runs", "cancel", run) == {"run_id": run, "job_id": job["id"]}
        watched = cdds("runs", "watch", run)
        assert watched.code == 1
        assert "cancelled" in watched.out.splitlines()[-1]
    # job_api hears of the end in its own time; until then it takes the order once more, and that changes nothing.
    refused = eventually(lambda: told if (told := cdds("runs", "cancel", run)).code else None, what="a refusal")
    fails(refused, 1, "has ended already")

    again = cdds("runs", "retry", run, "--watch", "--output", "json")
    assert again.code == 0, again
    assert json_of("runs", "show", lines(again)[-1]["run_id"])["retry_of"] == run


def test_a_failed_run_says_why_and_what_to_do(tenant: Tenant) -> None:
    job = tenant.certify().submit(fields=["nothing"], retry={"attempts": 1})

    told = cdds("jobs", "run", job["id"], "--watch", "--output", "json")

    assert told.code == 1
    assert (lines(told)[-1]["state"], lines(told)[-1]["reason"]) == ("failed", "field_unknown")
    text = cdds("runs", "show", lines(told)[-1]["run_id"]).out
    assert "Correct the job's fields" in text


class Recorded:
    """Where it is shown how a run goes: its states."""

    def __init__(self) -> None:
        self.states: list[str] = []

    def show(self, run: Any) -> None:
        self.states.append(run["state"])


def test_a_run_that_waits_and_never_becomes_one_is_not_waited_for(tenant: Tenant, relay: Relay) -> None:
    job = tenant.certify().submit()
    recorded = Recorded()
    with tenant.source_locked(), Client(relay.url, tenant.token("viewer")) as client:
        first = json_of("jobs", "run", job["id"])["run_id"]
        running(first)
        second = json_of("jobs", "run", job["id"])["run_id"]
        watcher = watch.Watcher(client, recorded, [second], known=True)
        following = Thread(target=watcher.watch)
        following.start()
        eventually(lambda: relay.streaming, what="the stream")
        json_of("runs", "cancel", second)
        following.join(30)
        json_of("runs", "cancel", first)
    assert not following.is_alive()
    assert (recorded.states, watcher.succeeded) == (["skipped"], False)


def test_a_run_that_was_skipped_while_nobody_listened_is_not_waited_for(tenant: Tenant) -> None:
    job = tenant.certify().submit()
    recorded = Recorded()
    with tenant.source_locked(), Client(tenant.stack.url, tenant.token("viewer")) as client:
        first = json_of("jobs", "run", job["id"])["run_id"]
        running(first)
        second = json_of("jobs", "run", job["id"])["run_id"]
        json_of("runs", "cancel", second)
        eventually(lambda: client.json("/slots", job_id=job["id"], outcome="skipped")["items"], what="the ledger")
        watcher = watch.Watcher(client, recorded, [second], job["id"], known=True)
        following = Thread(target=watcher.watch, daemon=True)
        following.start()
        following.join(30)
        json_of("runs", "cancel", first)
    assert not following.is_alive()
    assert (recorded.states, watcher.succeeded) == (["skipped"], False)


@pytest.mark.parametrize("fault", ["the stream breaks", "there is no stream"])
def test_a_run_is_followed_however_bad_the_way(tenant: Tenant, relay: Relay, fault: str) -> None:
    job = tenant.certify().submit()
    if fault == "there is no stream":
        relay.no_stream = True
    else:
        relay.break_after = [1, 2, 1, 2, 1, 3]

    told = cdds("jobs", "run", job["id"], "--watch", "--output", "json")

    assert told.code == 0, told
    assert lines(told)[-1]["state"] == "succeeded"
    if fault == "the stream breaks":
        asked = relay.sent("GET", "/stream")
        assert "last-event-id" not in asked[0]
        assert all(headers["last-event-id"] for headers in asked[1:])
        assert len(asked) > 1


def test_a_run_that_nobody_knows_is_not_waited_for_long(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "KNOWN_WITHIN_SECONDS", 0)
    told = cdds("runs", "watch", str(uuid4()))
    fails(told, 1, "there is no run")
    fails(cdds("runs", "show", "17"), 1, "cdds runs list")
    fails(cdds("runs", "show", "abcd1234"), 1, "begins with abcd1234")


def test_people_see_bars_on_eighty_columns(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(showing, "out", Console(file=terminal, force_terminal=True, width=80))
    job = tenant.certify().submit()
    with tenant.source_locked():
        run = json_of("jobs", "run", job["id"])["run_id"]
        running(run)
        seen = json_of("runs", "show", run)
        progress = {"attempt": 1, "sequence": 1, "rows": 1200, "bytes": 9, "percent": 45.2, "remaining_seconds": 75.0}
        with showing.Bars() as bars:
            bars.show({**seen, "progress": progress})
            bars.show({**seen, "state": "succeeded", "rows": 3000, "duration_seconds": 3.0})
        json_of("runs", "cancel", run)
    text = terminal.getvalue()
    for part in ("45 %", "1,200 rows", "1 min 15 s", "━", "3,000 rows, in 3.0 s"):
        assert part in text
