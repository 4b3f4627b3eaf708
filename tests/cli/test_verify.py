"""`cdds artifacts verify`: what is right passes, and whatever was touched is found."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.exporter.pipeline import manifest
from tests.cli.exports import (
    ANNA,
    BERT,
    HOUR,
    MIDNIGHT,
    Installation,
    Run,
    Told,
    cdds,
    flip,
    make_run,
    write_key,
)
from tests.exporter.test_pipeline_cms import identity


def verify(*arguments: str | Path) -> Told:
    return cdds("artifacts", "verify", *arguments)


def findings(told: Told) -> list[tuple[str, str, str]]:
    """All of them: severity, subject, message."""
    document = told.json
    found = [finding for part in ("manifests", "jobs") for one in document[part] for finding in one["findings"]]
    return [tuple(finding.values()) for finding in [*found, *document["files"]]]


def failed(installation: Installation, *options: str | Path) -> list[tuple[str, str]]:
    """Subject and message of what failed; the code agrees with it."""
    told = verify(installation.folder, "--output", "json", *options)
    bad = [(subject, message) for severity, subject, message in findings(told) if severity == "failed"]
    assert (told.code, told.json["ok"]) == ((3, False) if bad else (0, True))
    return bad


def chain(installation: Installation, hours: int = 4, **options: Any) -> list[Run]:
    """Hourly runs of one job."""
    runs: list[Run] = []
    for hour in range(hours):
        runs.append(
            make_run(
                installation,
                previous=runs[-1] if runs else None,
                start=MIDNIGHT + hour * HOUR,
                **{"rows": None, "split_bytes": None, **options},
            )
        )
    return runs


@pytest.mark.parametrize("encryption", ["gcm", "smime", "none"])
@pytest.mark.parametrize("format", ["jsonl", "csv"])
@pytest.mark.parametrize("deep", [False, True])
def test_what_the_service_wrote_is_right(
    installation: Installation, key: Path, encryption: str, format: str, deep: bool
) -> None:
    first = make_run(installation, encryption=encryption, format=format)
    make_run(installation, encryption=encryption, format=format, previous=first, start=MIDNIGHT + HOUR, rows=[])
    assert len(first.parts) > 1
    options = ["--key", key] if deep else []

    told = verify(installation.folder, *options, "--strict")

    assert (told.code, told.err) == (0, ""), told
    assert "an unbroken chain; no gap and no overlap" in told.out
    assert failed(installation, *options) == []


def test_the_document_tells_runs_and_jobs(installation: Installation) -> None:
    one, other = chain(installation, 2), chain(installation, 3)

    document = verify(installation.folder, "--output", "json").json

    assert document["ok"] is True
    assert {entry["run"] for entry in document["manifests"]} == {str(run.id) for run in [*one, *other]}
    assert {job["job"]: len(job["runs"]) for job in document["jobs"]} == {str(one[0].job): 2, str(other[0].job): 3}
    (run, _) = next(job["runs"] for job in document["jobs"] if job["job"] == str(one[0].job))
    assert (run["trigger"], run["from"], run["to"]) == ("schedule", "2026-03-01T00:00:00Z", "2026-03-01T01:00:00Z")


def test_one_manifest_may_be_named_and_keys_may_lie_elsewhere(installation: Installation, tmp_path: Path) -> None:
    run = make_run(installation)
    keys = shutil.move(installation.folder / "signing-keys.json", tmp_path / "pinned.json")
    (tmp_path / "pinned.pem").write_text(installation.pem)
    (tmp_path / "other.pem").write_text(Installation(tmp_path).pem)

    assert verify(run.manifest_path, "--keys", keys).code == 0
    assert verify(run.manifest_path, "--keys", tmp_path / "pinned.pem").code == 0
    assert verify(run.manifest_path, "--keys", tmp_path / "other.pem").code == 3
    missing = verify(run.manifest_path)
    assert (missing.code, missing.out) == (1, "")
    assert "no signing keys: give --keys" in missing.err


def test_where_nothing_can_be_verified_it_says_so(tmp_path: Path, installation: Installation) -> None:
    run = make_run(installation)
    (tmp_path / "no-keys.json").write_text("{}")
    for arguments, said in (
        ([tmp_path / "missing"], "is no folder and no manifest"),
        ([installation.folder / "missing.manifest.json"], "no such file"),
        ([run.parts[0]], "is no folder and no manifest"),
        ([tmp_path], "there are no manifests"),
        ([run.manifest_path, "--keys", tmp_path / "no-keys.json"], "holds no signing keys"),
    ):
        told = verify(*arguments)
        assert (told.code, told.out) == (1, ""), told
        assert said in told.err
        assert told.err.count("\n") == 1


# --- tampering ------------------------------------------------------------------------------------------------------

EVERYWHERE = [0.0, 0.01, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 0.99, 0.999999]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("kind", ["part", "manifest", "schema"])
def test_a_flipped_byte_anywhere_is_found(installation: Installation, key: Path, kind: str, deep: bool) -> None:
    run = make_run(installation)
    path = {"part": run.parts[1], "manifest": run.manifest_path, "schema": run.schema_path}[kind]
    size = path.stat().st_size
    for place in EVERYWHERE:
        position = int(size * place)
        flip(path, position)
        assert failed(installation, *(["--key", key] if deep else []))[0][0] == path.name, place
        flip(path, position)
    assert failed(installation) == []


def test_every_byte_of_a_manifest_counts(installation: Installation) -> None:
    run = make_run(installation, rows=[], split_bytes=None)
    content = run.manifest_path.read_bytes()
    for position in range(0, len(content), 7):
        flip(run.manifest_path, position)
        assert failed(installation) != [], content[position : position + 20]
        flip(run.manifest_path, position)
    for end in (b"", b" ", b"\n"):
        run.manifest_path.write_bytes(b" " + content[:-1] + end)
        assert failed(installation) != []


Tamper = Callable[[Installation, list[Run]], None]


def remove(what: Callable[[Run], Path], number: int = 1) -> Tamper:
    return lambda _, runs: what(runs[number]).unlink()


def swap(first: Callable[[list[Run]], Path], second: Callable[[list[Run]], Path]) -> Tamper:
    def tamper(_: Installation, runs: list[Run]) -> None:
        one, other = first(runs), second(runs)
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)

    return tamper


def rewrite(key: Ed25519PrivateKey | None, name: str | None = None, **changes: Any) -> Tamper:
    """Change a manifest and sign it again, with the right key or with another."""

    def tamper(installation: Installation, runs: list[Run]) -> None:
        document = {**runs[1].manifest, **changes}
        runs[1].manifest_path.write_bytes(manifest.sign(document, key or installation.key, name or installation.key_id))

    return tamper


def truncate(_: Installation, runs: list[Run]) -> None:
    runs[1].parts[0].write_bytes(runs[1].parts[0].read_bytes()[:-1])


def lengthen(_: Installation, runs: list[Run]) -> None:
    runs[1].parts[0].write_bytes(runs[1].parts[0].read_bytes() + b"\0")


def pretty(_: Installation, runs: list[Run]) -> None:
    document = orjson.loads(runs[1].manifest_path.read_bytes())
    runs[1].manifest_path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))


def doubled(_: Installation, runs: list[Run]) -> None:
    """Two members of one name: readers differ in which they take."""
    content = runs[1].manifest_path.read_bytes()
    runs[1].manifest_path.write_bytes(content.replace(b'{"attempt":1', b'{"attempt":2,"attempt":1', 1))


def fork(installation: Installation, runs: list[Run]) -> None:
    make_run(installation, previous=runs[0], start=MIDNIGHT + 9 * HOUR, split_bytes=None)


def planted(installation: Installation, runs: list[Run]) -> None:
    (installation.folder / f"export-{uuid4()}-0001-of-0001.zip.p7m").write_bytes(runs[0].parts[0].read_bytes())


def of_another_run(_: Installation, runs: list[Run]) -> None:
    runs[1].manifest_path.write_bytes(runs[2].manifest_path.read_bytes())


STRANGER = Ed25519PrivateKey.generate()


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (remove(lambda run: run.parts[0]), "missing: fetch the run again"),
        (remove(lambda run: run.schema_path), "missing: fetch the run again"),
        (remove(lambda run: run.manifest_path), "the manifest before it is missing or was altered"),
        (remove(lambda run: run.manifest_path), "no manifest here speaks of this file"),
        (remove(lambda run: run.manifest_path, 3), "no manifest here speaks of this file"),
        (swap(lambda runs: runs[1].parts[0], lambda runs: runs[2].parts[0]), "altered or exchanged"),
        (swap(lambda runs: runs[1].schema_path, lambda runs: runs[1].parts[0]), "altered or exchanged"),
        (swap(lambda runs: runs[1].manifest_path, lambda runs: runs[1].schema_path), "not a signed manifest"),
        (truncate, "bytes, the manifest says"),
        (lengthen, "bytes, the manifest says"),
        (rewrite(STRANGER), "the signature does not match"),
        (rewrite(STRANGER, "0123456789abcdef"), "not among the signing keys"),
        (rewrite(None, rows=1), "the manifest before it is missing or was altered"),
        (rewrite(None, entities={"Interaction": {"rows": 7}}), "where it says 7"),
        (rewrite(None, parts="none"), "is not what a manifest has"),
        (rewrite(None, data_interval={"from": "yesterday", "to": None}), "is not what a manifest has"),
        (rewrite(None, schema={"name": "../../etc/passwd", "sha256": "aa" * 32}), "no plain file name"),
        (pretty, "not in canonical form"),
        (doubled, "not in canonical form"),
        (fork, "the chain forks"),
        (planted, "no manifest here speaks of this file"),
        (of_another_run, "no manifest here speaks of this file"),
    ],
)
@pytest.mark.parametrize("deep", [False, True])
def test_tampering_is_found(installation: Installation, key: Path, tamper: Tamper, said: str, deep: bool) -> None:
    runs = chain(installation)
    options = ["--key", key] if deep else []
    assert failed(installation, *options) == []

    tamper(installation, runs)

    assert said in " | ".join(message for _, message in failed(installation, *options))
    told = verify(installation.folder, *options)
    assert told.code == 3
    assert "verification failed" in told.err
    assert said in told.out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": 299}, "the number of rows is 300, the manifest says 299"),
        ({"plain_bytes": 1}, "more than the 1 bytes"),
        ({"plain_bytes": 10**9}, "the size of the content is"),
        ({"plain_sha256": "aa" * 32}, "the SHA-256 of the content is"),
        ({"zip_bytes": 1}, "the size of the zip is"),
        ({"entry": "Interaction-1.jsonl"}, "the name of the file inside is"),
    ],
)
def test_what_is_inside_is_checked_with_the_key_only(
    installation: Installation, key: Path, changes: dict[str, Any], said: str
) -> None:
    """A service that lies about the content, or signs what it did not look at."""
    run = make_run(installation, split_bytes=None)
    document = {**run.manifest, "parts": [{**run.manifest["parts"][0], **changes}], "entities": {}}
    run.manifest_path.write_bytes(manifest.sign(document, installation.key, installation.key_id))

    assert failed(installation) == []
    assert said in failed(installation, "--key", key)[0][1]


def test_a_key_that_does_not_open_the_parts_fails(installation: Installation, tmp_path: Path) -> None:
    make_run(installation, recipients=[BERT[1]])

    assert "not encrypted for this certificate" in failed(installation, "--key", write_key(tmp_path, ANNA[0]))[0][1]
    stranger = write_key(tmp_path, identity("stranger")[0])
    assert failed(installation, "--key", stranger) != []
    assert failed(installation, "--key", write_key(tmp_path, BERT[0])) == []


# --- chains and intervals -------------------------------------------------------------------------------------------


def test_the_beginning_may_be_missing_unless_strict(installation: Installation) -> None:
    first, *_ = chain(installation)
    for path in (first.manifest_path, first.schema_path, *first.parts):
        path.unlink()

    told = verify(installation.folder)

    assert told.code == 0
    assert "the chain begins in the middle" in told.out
    assert verify(installation.folder, "--strict").code == 3


def test_a_gap_warns_and_a_backfill_closes_it(installation: Installation) -> None:
    first = make_run(installation, start=MIDNIGHT)
    third = make_run(installation, previous=first, start=MIDNIGHT + 2 * HOUR)
    open_gap = verify(installation.folder)
    strict = verify(installation.folder, "--strict")
    make_run(installation, previous=third, start=MIDNIGHT + HOUR, slot_key=f"backfill:{uuid4()}:2026-03-01T02:00:00Z")
    closed = verify(installation.folder, "--strict")

    assert (open_gap.code, strict.code, closed.code) == (0, 3, 0)
    assert "[2026-03-01T01:00:00Z, 2026-03-01T02:00:00Z): gap: no run exported it" in open_gap.out
    assert "closed by backfill:" in closed.out


def test_an_overlap_warns(installation: Installation) -> None:
    first = make_run(installation, start=MIDNIGHT, end=MIDNIGHT + 2 * HOUR)
    make_run(installation, previous=first, start=MIDNIGHT + HOUR, end=MIDNIGHT + 3 * HOUR)

    told = verify(installation.folder)

    assert told.code == 0
    assert "[2026-03-01T01:00:00Z, 2026-03-01T02:00:00Z): overlap" in told.out


def test_each_job_has_a_chain_of_its_own(installation: Installation) -> None:
    """A hole in one is not filled by the other."""
    whole, holed = chain(installation, 3), chain(installation, 3)
    holed[1].manifest_path.unlink()

    document = verify(installation.folder, "--output", "json", "--manifests-only").json

    bad = {job["job"]: [f["severity"] for f in job["findings"]] for job in document["jobs"]}
    assert bad[str(whole[0].job)] == []
    assert bad[str(holed[0].job)] == ["failed", "warning"]


def test_manifests_alone_can_be_verified_when_the_parts_are_gone(installation: Installation) -> None:
    runs = chain(installation)
    for run in runs:
        for path in (*run.parts, run.schema_path):
            path.unlink()

    assert verify(installation.folder).code == 3
    assert verify(installation.folder, "--manifests-only").code == 0
    flip(runs[1].manifest_path, 100)
    assert verify(installation.folder, "--manifests-only").code == 3


def test_a_renamed_manifest_is_told(installation: Installation) -> None:
    run = make_run(installation)
    run.manifest_path.rename(installation.folder / "mine.manifest.json")

    told = verify(installation.folder)

    assert told.code == 0
    assert "it is the manifest of another name" in told.out


def test_the_zip_that_openssl_made_beside_a_part_is_no_stranger(
    installation: Installation, key: Path, rows: Path
) -> None:
    run = make_run(installation, split_bytes=None)
    run.parts[0].with_suffix("").write_bytes(b"PK")

    assert failed(installation) == []
    assert cdds("artifacts", "decrypt", installation.folder, "--key", key, "--into", rows).code == 0


def test_today_s_manifests_without_schema_and_entities_are_verified(installation: Installation, key: Path) -> None:
    run = make_run(installation)
    document = {
        name: value for name, value in run.manifest.items() if name not in ("schema", "entities", "csv_profile")
    }
    document["parts"] = [{k: v for k, v in part.items() if k != "entity"} for part in document["parts"]]
    run.manifest_path.write_bytes(manifest.sign(document, installation.key, installation.key_id))
    run.schema_path.unlink()

    assert failed(installation, "--key", key) == []
