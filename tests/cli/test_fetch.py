"""`cdds artifacts fetch` against a real HTTP server: complete or not at all, each once, and on from where it broke."""

import fcntl
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest

from cli import client as client_module
from cli.artifacts.ledger import LEDGER_NAME
from deploy.local.processes import free_port
from services.exporter.pipeline import manifest
from tests.cli.exports import HOUR, MIDNIGHT, Installation, Run, Told, cdds, make_run
from tests.cli.service import STORED, TOKEN, Service, served

SETTLED = {LEDGER_NAME, "signing-keys.json"}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeats at once, as often as ever."""
    monkeypatch.setattr(client_module, "PAUSES_SECONDS", (0.0,) * len(client_module.PAUSES_SECONDS))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = tmp_path / "made"
    made.mkdir()
    with served(Service(Installation(made))) as running:
        yield running


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "received"


def fetch(service: Service, into: Path, *options: str | Path, token: str = TOKEN) -> Told:
    return cdds("artifacts", "fetch", "--url", service.url, "--token", token, "--into", into, *options)


def outcomes(told: Told) -> list[str]:
    return [run["outcome"] for run in told.json["runs"]]


def files_of(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (*run.parts, run.schema_path, run.manifest_path)}


def received(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in SETTLED}


def make(service: Service, **options: Any) -> Run:
    return make_run(service.installation, **options)


# --- what is fetched ------------------------------------------------------------------------------------------------


def test_a_run_comes_with_its_manifest_schema_and_keys(service: Service, into: Path) -> None:
    run, other = service.show(make(service)), service.show(make(service))
    assert len(run.parts) > 1

    told = fetch(service, into, "--run", str(run.id), "--output", "json")

    assert (told.code, told.err) == (0, "")
    assert received(into) == files_of(run)
    assert {Path(file).name for file in told.json["runs"][0]["files"]} == set(files_of(run))
    assert told.json["runs"][0]["bytes"] == sum(map(len, files_of(run).values()))
    assert cdds("artifacts", "verify", into, "--strict").code == 0
    assert str(other.id) not in told.out


def test_a_job_comes_with_all_its_succeeded_runs(service: Service, into: Path) -> None:
    runs = [service.show(make(service))]
    for hour in range(1, 5):
        runs.append(
            service.show(make(service, previous=runs[-1], start=MIDNIGHT + hour * HOUR), stored_at=STORED + hour * HOUR)
        )
    service.executions[runs[2].id]["state"] = "running"
    service.show(make(service))

    told = fetch(service, into, "--job", str(runs[0].job), "--output", "json")

    assert outcomes(told) == ["fetched"] * 4
    assert [run["run"] for run in told.json["runs"]] == [str(run.id) for run in runs if run is not runs[2]]
    again = fetch(service, into, "--job", str(runs[0].job), "--output", "json")
    assert outcomes(again) == ["present"] * 4


def test_new_runs_come_once(service: Service, into: Path) -> None:
    first = [service.show(make(service), stored_at=STORED + number * HOUR) for number in range(5)]

    one = fetch(service, into, "--output", "json")
    two = fetch(service, into, "--output", "json")
    later = service.show(make(service), stored_at=STORED + 9 * HOUR)
    three = fetch(service, into, "--output", "json")

    assert [run["run"] for run in one.json["runs"]] == [str(run.id) for run in first]
    assert (outcomes(one), outcomes(two), outcomes(three)) == (["fetched"] * 5, [], ["fetched"])
    assert three.json["runs"][0]["run"] == str(later.id)
    assert fetch(service, into).out == "Nothing new.\n"


def test_files_that_were_moved_away_do_not_come_again(service: Service, into: Path) -> None:
    run = service.show(make(service))
    fetch(service, into)
    for name in files_of(run):
        (into / name).unlink()

    assert outcomes(fetch(service, into, "--output", "json")) == []
    assert outcomes(fetch(service, into, "--run", str(run.id), "--output", "json")) == ["fetched"]


def test_what_was_fetched_by_name_is_not_new(service: Service, into: Path) -> None:
    run = service.show(make(service))
    fetch(service, into, "--run", str(run.id))

    assert outcomes(fetch(service, into, "--output", "json")) == []


def test_what_becomes_visible_late_is_not_skipped(service: Service, into: Path) -> None:
    """History hears of runs in any order, and however late."""
    service.show(make(service), stored_at=STORED)
    fetch(service, into)
    late = service.show(make(service), stored_at=STORED - timedelta(days=700))

    told = fetch(service, into, "--output", "json")

    assert [run["run"] for run in told.json["runs"]] == [str(late.id)]


def test_what_was_listed_is_not_listed_again(service: Service, into: Path) -> None:
    for number in range(9):
        service.show(make(service, split_bytes=None), stored_at=STORED + number * HOUR)
    fetch(service, into)
    service.requests.clear()

    assert fetch(service, into).out == "Nothing new.\n"
    assert [path for path, _ in service.requests].count("/api/v1/artifacts") == 1


def test_a_rescan_finds_what_a_history_that_began_anew_lists_at_other_places(service: Service, into: Path) -> None:
    for _ in range(3):
        service.show(make(service))
    fetch(service, into)
    service.executions.clear()
    service.arrived.clear()
    service.show(make(service, split_bytes=None))

    assert outcomes(fetch(service, into, "--output", "json")) == []
    assert outcomes(fetch(service, into, "--rescan", "--output", "json")) == ["fetched"]


def test_a_folder_of_an_earlier_version_goes_on(service: Service, into: Path) -> None:
    """What it fetched does not come again, and what was gone by then is not told again."""
    fetched, gone = single(service), service.show(make(service), stored_at=STORED - HOUR)
    fetch(service, into)
    service.expire(gone)
    state = orjson.loads((into / LEDGER_NAME).read_bytes())
    old = {"version": 1, "tenant": "acme", "newest": STORED, "runs": {str(fetched.id): state["runs"][str(fetched.id)]}}
    (into / LEDGER_NAME).write_bytes(orjson.dumps(old))
    new = service.show(make(service), stored_at=STORED + HOUR)

    told = fetch(service, into, "--output", "json")

    assert [run["run"] for run in told.json["runs"]] == [str(new.id)]
    assert orjson.loads((into / LEDGER_NAME).read_bytes())["version"] == 2


def test_a_call_that_dies_between_listing_and_fetching_leaves_nothing_out(service: Service, into: Path) -> None:
    run = single(service)
    service.answers = [200, 500]
    assert fetch(service, into).code == 1
    service.requests.clear()

    assert outcomes(fetch(service, into, "--output", "json")) == ["fetched"]
    assert received(into) == files_of(run)


def test_a_run_that_is_not_all_listed_yet_comes_with_the_next_call(service: Service, into: Path) -> None:
    """Even when that is long after newer runs came."""
    run = service.show(make(service))
    hidden = service.executions[run.id]["artifacts"].pop()
    service.show(make(service), stored_at=STORED + timedelta(days=20))

    first = fetch(service, into, "--output", "json")
    second = fetch(service, into, "--output", "json")
    service.executions[run.id]["artifacts"].append(hidden)
    third = fetch(service, into, "--output", "json")

    assert [outcomes(told) for told in (first, second, third)] == [["pending", "fetched"], ["pending"], ["fetched"]]
    assert received(into).keys() >= files_of(run).keys()


def test_a_run_that_is_listed_before_it_is_known_keeps_no_other_away(service: Service, into: Path) -> None:
    run = service.show(make(service))
    known = service.executions[run.id]
    service.show(make(service), stored_at=STORED + timedelta(days=1))
    service.unknown.add(run.id)

    first = fetch(service, into, "--output", "json")
    service.unknown.clear()
    second = fetch(service, into, "--output", "json")

    assert known["state"] == "succeeded"
    assert [outcomes(told) for told in (first, second)] == [["pending", "fetched"], ["fetched"]]


def test_a_run_that_has_not_succeeded_is_no_run_to_fetch(service: Service, into: Path) -> None:
    run = service.show(make(service), state="running")

    told = fetch(service, into, "--run", str(run.id))

    assert (told.code, told.out) == (1, "")
    assert "it is running" in told.err


def test_expired_runs_are_told_once_and_leave_their_manifests(service: Service, into: Path) -> None:
    gone, kept = service.show(make(service)), service.show(make(service))
    service.expire(gone)

    first = fetch(service, into)
    again = fetch(service, into)
    named = fetch(service, into, "--run", str(gone.id))
    manifests = fetch(service, into, "--run", str(gone.id), "--manifests-only")

    assert (first.code, again.code, named.code, manifests.code) == (0, 0, 1, 0)
    assert f"run {gone.id}: its files were deleted" in first.out
    assert again.out == "Nothing new.\n"
    assert "its files were deleted" in named.err
    assert received(into).keys() == {*files_of(kept), gone.manifest_path.name, gone.schema_path.name}


def test_a_file_that_expires_while_it_is_fetched_is_gone(service: Service, into: Path) -> None:
    run = service.show(make(service))
    service.answers = [200, 410]

    told = fetch(service, into, "--run", str(run.id))

    assert told.code == 1
    assert "410 (As the test wants it): it was deleted when its retention ended" in told.err
    assert run.manifest_path.name not in received(into)


def test_a_file_that_is_there_is_not_fetched_again(service: Service, into: Path) -> None:
    run = service.show(make(service))
    fetch(service, into, "--run", str(run.id))
    (into / run.parts[0].name).write_bytes(b"damaged")
    service.requests.clear()

    told = fetch(service, into, "--run", str(run.id), "--output", "json")

    assert outcomes(told) == ["fetched"]
    assert len(service.part_requests()) == 1
    assert received(into) == files_of(run)


# --- interruptions --------------------------------------------------------------------------------------------------


def single(service: Service) -> Run:
    return service.show(make(service, split_bytes=None))


def test_an_interrupted_transfer_goes_on_where_it_broke(service: Service, into: Path) -> None:
    run = single(service)
    service.breaks = [5000, 3000]

    told = fetch(service, into, "--run", str(run.id))

    assert told.code == 0, told.err
    assert received(into) == files_of(run)
    assert [range_ for _, range_ in service.part_requests()] == [None, "bytes=5000-", "bytes=8000-"]


def test_the_next_call_goes_on_where_the_last_one_gave_up(service: Service, into: Path) -> None:
    run = single(service)
    service.breaks = [4000] + [0] * 100

    given_up = fetch(service, into)
    left = received(into)
    service.breaks = []
    service.requests.clear()
    told = fetch(service, into)

    assert given_up.code == 4
    assert "does not answer" in given_up.err
    assert left == {run.parts[0].name + ".part": run.parts[0].read_bytes()[:4000]}
    assert told.code == 0
    assert received(into) == files_of(run)
    assert [range_ for _, range_ in service.part_requests()] == ["bytes=4000-"]


def test_a_transfer_is_repeated_a_bounded_number_of_times(service: Service, into: Path) -> None:
    single(service)
    service.breaks = [0] * 100

    assert fetch(service, into).code == 4
    assert len(service.part_requests()) == 1 + len(client_module.PAUSES_SECONDS)


def test_a_service_without_ranges_sends_everything_again(service: Service, into: Path) -> None:
    run = single(service)
    service.ranges = False
    service.breaks = [5000]

    assert fetch(service, into).code == 0
    assert received(into) == files_of(run)


@pytest.mark.parametrize("content", [b"", b"something else", b"x" * 1_000_000])
def test_whatever_lies_under_the_partial_name_does_no_harm(service: Service, into: Path, content: bytes) -> None:
    run = single(service)
    into.mkdir()
    (into / f"{run.parts[0].name}.part").write_bytes(content)

    assert fetch(service, into).code == 0
    assert received(into) == files_of(run)


def test_a_partial_file_that_is_complete_only_needs_its_name(service: Service, into: Path) -> None:
    run = single(service)
    into.mkdir()
    (into / f"{run.parts[0].name}.part").write_bytes(run.parts[0].read_bytes())

    assert fetch(service, into).code == 0
    assert received(into) == files_of(run)
    assert service.part_requests() == []


def test_a_range_that_the_service_does_not_have_begins_anew(service: Service, into: Path) -> None:
    run = single(service)
    into.mkdir()
    (into / f"{run.parts[0].name}.part").write_bytes(b"x" * 100)
    service.answers = [200, 416]

    assert fetch(service, into).code == 0
    assert received(into) == files_of(run)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_service_that_is_away_for_a_moment_is_asked_again(service: Service, into: Path, status: int) -> None:
    run = single(service)
    service.answers = [status, status, 200, status]

    assert fetch(service, into).code == 0
    assert received(into) == files_of(run)


# --- refusals -------------------------------------------------------------------------------------------------------


def test_refusals_are_one_line_with_a_remedy(service: Service, into: Path) -> None:
    run = single(service)
    for arguments, token, code, said in (
        (
            ["--run", str(run.id)],
            "another token",
            1,
            "401 (The access token is not valid): the access token is missing",
        ),
        (["--run", str(uuid4())], TOKEN, 1, "404 (There is no such execution): there is no such thing"),
        (["--job", str(uuid4())], TOKEN, 1, "has no succeeded runs"),
    ):
        told = fetch(service, into, *arguments, token=token)
        assert (told.code, told.out) == (code, ""), told
        assert said in told.err
        assert told.err.count("\n") == 1
    for status, said in ((403, "role operator"), (500, "ask the operator"), (404, "no such thing")):
        service.answers = [status]
        told = fetch(service, into, "--run", str(run.id))
        assert told.code == 1
        assert f"the service answers {status} (As the test wants it)" in told.err
        assert said in told.err
    assert received(into) == {}


def test_an_address_where_nobody_answers_is_unreachable(into: Path) -> None:
    told = cdds("artifacts", "fetch", "--url", f"http://127.0.0.1:{free_port()}", "--token", "t", "--into", into)

    assert (told.code, told.out) == (4, "")
    assert "does not answer" in told.err


def test_wrong_usage_is_told(into: Path, tmp_path: Path) -> None:
    for arguments, code, said in (
        (["--run", str(uuid4()), "--job", str(uuid4())], 2, "not both"),
        (["--manifests-only"], 2, "needs --run or --job"),
        (["--run", "17"], 2, "UUID"),
        (["--url", "http://127.0.0.1:1"], 2, "--token"),
        (["--url", "cdds.example", "--token", "t"], 1, "begins with http"),
        (["--data", tmp_path / "nothing"], 4, "no local stack is running here"),
    ):
        told = cdds("artifacts", "fetch", "--into", into, *arguments)
        assert told.code == code, told
        assert said in told.err


def test_address_and_token_come_from_the_environment(
    service: Service, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = single(service)
    monkeypatch.setenv("CDDS_URL", f"{service.url}/api/v1/")
    monkeypatch.setenv("CDDS_TOKEN", TOKEN + "\n")

    assert cdds("artifacts", "fetch", "--into", into).code == 0
    assert received(into) == files_of(run)


def test_something_else_than_the_service_is_recognised(service: Service, into: Path) -> None:
    single(service)
    service.executions = {uuid4(): {"artifacts": [{"artifact_id": "x", "stored_at": STORED}]}}

    told = fetch(service, into)

    assert told.code == 1
    assert "does not answer like CDDS" in told.err


# --- what is not what it says ---------------------------------------------------------------------------------------


def test_a_part_with_another_content_never_gets_its_name(service: Service, into: Path) -> None:
    run = single(service)
    file = service.files[service.executions[run.id]["artifacts"][0]["artifact_id"]]
    content = file.content
    for wrong, said in (
        (bytes([content[0] ^ 1]) + content[1:], "another SHA-256 than it should"),
        (content + b"x", "more than the"),
    ):
        file.content = wrong
        told = fetch(service, into)
        assert told.code == 3, told
        assert said in told.err
        assert {name for name in received(into) if not name.endswith(".part")} == set()
    file.content = content
    assert fetch(service, into).code == 0
    assert received(into) == files_of(run)


def test_one_wrong_run_does_not_keep_the_others_away(service: Service, into: Path) -> None:
    wrong, right = single(service), single(service)
    service.files[service.executions[wrong.id]["artifacts"][0]["artifact_id"]].content = bytes(100_000)

    told = fetch(service, into, "--output", "json")

    assert told.code == 3
    assert sorted(outcomes(told)) == ["failed", "fetched"]
    assert received(into).keys() >= files_of(right).keys()
    assert outcomes(fetch(service, into, "--output", "json")) == ["failed"]


def test_manifests_are_held_against_history_and_keys(service: Service, into: Path) -> None:
    run, other = single(service), single(service)
    manifest_file = service.files[service.executions[run.id]["manifest_id"]]
    foreign = make_run(Installation(service.installation.folder), run=run.id, split_bytes=None)
    for content, digest, said in (
        (other.manifest_path.read_bytes(), run.sha256, "not the one that history names"),
        (other.manifest_path.read_bytes(), other.sha256, "that of another run"),
        (foreign.manifest_path.read_bytes(), foreign.sha256, "not among the signing keys"),
        (b"{}", manifest.sha256(b"{}").hexdigest(), "not a signed manifest"),
    ):
        manifest_file.content = content
        service.executions[run.id]["manifest_sha256"] = digest
        told = fetch(service, into, "--run", str(run.id))
        assert told.code == 3, told
        assert said in told.err
        assert received(into) == {}


def test_a_schema_with_another_content_is_refused(service: Service, into: Path) -> None:
    run = single(service)
    next(file for file in service.files.values() if file.name == run.schema_path.name).content = b"{}"

    told = fetch(service, into, "--run", str(run.id))

    assert told.code == 3
    assert run.manifest_path.name not in received(into)


def test_a_signing_key_that_is_added_is_taken(service: Service, into: Path) -> None:
    single(service)
    fetch(service, into)
    service.also = [Installation(service.installation.folder)]
    rotated = service.show(make_run(service.also[0]))

    assert fetch(service, into, "--run", str(rotated.id)).code == 0
    assert len(orjson.loads((into / "signing-keys.json").read_bytes())["items"]) == 2


def test_a_signing_key_that_changes_or_disappears_stops_everything(service: Service, into: Path) -> None:
    run = single(service)
    fetch(service, into)
    before = (into / "signing-keys.json").read_bytes()
    service.installation = Installation(service.installation.folder)

    told = fetch(service, into, "--run", str(run.id))

    assert told.code == 3
    assert "another signing key" in told.err
    assert (into / "signing-keys.json").read_bytes() == before


def test_a_folder_belongs_to_one_tenant(service: Service, into: Path) -> None:
    single(service)
    fetch(service, into)
    service.show(make(service, tenant="other"))

    told = fetch(service, into)

    assert told.code == 1
    assert "holds exports of tenant acme, not of other" in told.err


def test_two_calls_do_not_work_on_one_folder(service: Service, into: Path) -> None:
    into.mkdir()
    descriptor = os.open(into, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        told = fetch(service, into)
    finally:
        os.close(descriptor)

    assert told.code == 1
    assert "another `cdds artifacts fetch`" in told.err


@pytest.mark.parametrize("content", [b"", b"{", b'{"runs": 1}', b'{"version": 3}'])
def test_a_damaged_state_is_told(service: Service, into: Path, content: bytes) -> None:
    into.mkdir()
    (into / LEDGER_NAME).write_bytes(content)

    told = fetch(service, into)

    assert told.code == 1
    assert str(into / LEDGER_NAME) in told.err


def test_the_state_forgets_what_can_not_come_again(service: Service, into: Path) -> None:
    old = single(service)
    fetch(service, into)
    state = orjson.loads((into / LEDGER_NAME).read_bytes())
    state["runs"][str(old.id)]["expires_at"] = "2026-03-03T00:00:00Z"
    (into / LEDGER_NAME).write_bytes(orjson.dumps(state))
    new = service.show(make(service), stored_at=STORED + timedelta(days=20))

    fetch(service, into)

    assert orjson.loads((into / LEDGER_NAME).read_bytes())["runs"].keys() == {str(new.id)}
