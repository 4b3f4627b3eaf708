"""Bringing whole runs into a folder: parts first, the manifest last, so that a manifest means a complete run."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Final
from uuid import UUID, uuid5

from cli.artifacts.answers import Arrived, Execution, Listed, understood
from cli.artifacts.downloads import Remote, download
from cli.artifacts.ledger import Ledger, Waiting
from cli.artifacts.manifests import Keys, Part, Schema, Signed, check_manifest, manifest_name
from cli.artifacts.trust import trusted_keys
from cli.artifacts.unnamed import write_whole
from cli.client import Client, Refused
from cli.console import Advance, Exit, Failure
from services.exporter.pipeline.manifest import ManifestRejected

_PAGE: Final = 200
_CHUNK_BYTES: Final = 1024**2
_GONE: Final = 410
_NOT_FOUND: Final = 404

Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""Shows how far something of so many bytes has come."""


class Outcome(StrEnum):
    """FETCHED brought a file, PRESENT found all there; GONE has no files any more, PENDING not yet."""

    FETCHED = "fetched"
    PRESENT = "present"
    GONE = "gone"
    PENDING = "pending"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Received:
    """A run and the files of it that are in the folder now; `message` says why there are none."""

    run: UUID
    outcome: Outcome
    job: UUID | None = None
    title: str | None = None
    files: Sequence[Path] = ()
    bytes: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Receiver:
    """Fetches from one service into one folder."""

    client: Client
    folder: Path
    progress: Progress
    manifests_only: bool = False
    keys: Keys = field(init=False)
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ledger", Ledger.read(self.folder))
        object.__setattr__(self, "keys", trusted_keys(self.folder, self.client.content("/files/signing-keys")))

    def run(self, run: UUID) -> Received:
        """This run, which must have its files. Raises Failure."""
        received = self._receive(run)
        if received.outcome is Outcome.GONE:
            raise Failure(f"run {run}: {received.message}: run the export again, or ask for a backfill")
        if received.outcome is Outcome.PENDING:
            raise Failure(f"run {run}: {received.message}: try again later")
        return received

    def job(self, job: UUID) -> Iterable[Received]:
        """All succeeded runs of this job, oldest first."""
        pages = self.client.items("/executions", job_id=str(job), state="succeeded", limit=_PAGE)
        runs = [understood(Listed, item).run_id for item in pages]
        if not runs:
            raise Failure(f"job {job} has no succeeded runs for this tenant: check the id")
        for run in reversed(runs):
            yield self._attempt(run)

    def new(self, *, rescan: bool) -> Iterable[Received]:
        """Whatever this folder has not received, oldest first."""
        self._list(None if rescan else self.ledger.after)
        for run, waiting in self.ledger.waiting():
            if waiting.gone:
                self.ledger.settle(str(run), waiting.stored_at, waiting.expires_at)
                yield Received(run, Outcome.GONE, message="its files were deleted")
            else:
                yield self._attempt(run, waiting)
        self.ledger.tidy(datetime.now(UTC))

    def _list(self, after: str | None) -> None:
        """Read what has arrived since `after`; what was listed is remembered page by page."""
        while True:
            place = {} if after is None else {"after": after}
            page = self.client.json("/artifacts", order="arrival", limit=_PAGE, **place)
            arrived = understood(Arrived, page)
            if not arrived.items:
                return
            after = arrived.next
            self.ledger.listed(arrived.items, after)

    def _attempt(self, run: UUID, waiting: Waiting | None = None) -> Received:
        """The run; what is wrong with it alone does not keep others from being fetched."""
        try:
            return self._receive(run)
        except Refused as refused:
            if refused.status == _NOT_FOUND and waiting is not None:
                if waiting.expires_at > datetime.now(UTC):
                    return Received(run, Outcome.PENDING, message="the service does not know the run yet")
            elif refused.status != _GONE:
                raise
            if waiting is not None:
                self.ledger.settle(str(run), waiting.stored_at, waiting.expires_at)
            return Received(run, Outcome.GONE, message="its files were deleted while they were fetched")
        except Failure as failure:
            if failure.code is not Exit.VERIFICATION:
                raise
            return Received(run, Outcome.FAILED, message=str(failure))

    def _receive(self, run: UUID) -> Received:
        execution = understood(Execution, self.client.json(f"/executions/{run}"))

        def received(outcome: Outcome, message: str = "", files: Sequence[Path] = ()) -> Received:
            size = sum(file.stat().st_size for file in files)
            return Received(run, outcome, execution.job_id, execution.title, files, size, message)

        if execution.state != "succeeded":
            return received(Outcome.PENDING, f"it has no files, it is {execution.state}")
        if not self.manifests_only and any(artifact.deleted_at for artifact in execution.artifacts):
            self._settle(execution)
            return received(Outcome.GONE, "its files were deleted")
        content, signed = self._manifest(execution)
        parts = () if self.manifests_only else signed.manifest.parts
        ids = {artifact.file_name: artifact.artifact_id for artifact in execution.artifacts}
        if any(part.name not in ids for part in parts):
            return received(Outcome.PENDING, "the service does not list all its files yet")
        with self.progress(execution.title or str(run), sum(part.stored_bytes for part in parts)) as advance:
            brought = [self._part(part, ids[part.name], advance) for part in parts]
        files = [self.folder / part.name for part in parts]
        if signed.manifest.rows_schema is not None:
            files.append(self.folder / signed.manifest.rows_schema.name)
            brought.append(self._schema(run, signed.manifest.rows_schema))
        files.append(signed.path)
        brought.append(_write_changed(signed.path, content))
        if not self.manifests_only:
            self._settle(execution)
        return received(Outcome.FETCHED if any(brought) else Outcome.PRESENT, files=files)

    def _manifest(self, execution: Execution) -> tuple[bytes, Signed]:
        run = execution.run_id
        content = self.client.content(f"/files/{execution.manifest_id}")
        if sha256(content).hexdigest() != execution.manifest_sha256:
            raise _unproved(run, "its manifest is not the one that history names")
        try:
            signed = check_manifest(self.folder / manifest_name(run), content, self.keys)
        except ManifestRejected as error:
            raise _unproved(run, f"its manifest is refused: {error}") from error
        if signed.manifest.run != run:
            raise _unproved(run, "its manifest is that of another run")
        self.ledger.belongs_to(signed.manifest.tenant)
        return content, signed

    def _part(self, part: Part, artifact: UUID, advance: Advance) -> bool:
        """Whether the part had to be brought."""
        if _is(self.folder / part.name, part, advance):
            return False
        remote = Remote(str(artifact), part.name, part.stored_bytes, part.stored_sha256)
        download(self.client, remote, self.folder, advance)
        return True

    def _schema(self, run: UUID, schema: Schema) -> bool:
        """Whether the schema had to be brought."""
        path = self.folder / schema.name
        if path.exists() and sha256(path.read_bytes()).hexdigest() == schema.sha256:
            return False
        content = self.client.content(f"/files/{uuid5(run, 'schema')}")
        if sha256(content).hexdigest() != schema.sha256:
            raise _unproved(run, "its schema is not the one of the manifest")
        write_whole(path, content)
        return True

    def _settle(self, execution: Execution) -> None:
        if execution.artifacts:
            self.ledger.settle(
                str(execution.run_id),
                max(artifact.stored_at for artifact in execution.artifacts),
                max(artifact.expires_at for artifact in execution.artifacts),
            )


def _is(path: Path, part: Part, advance: Advance) -> bool:
    """Whether the file is there, as it must be."""
    if not path.exists() or path.stat().st_size != part.stored_bytes:
        return False
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    right = digest.hexdigest() == part.stored_sha256
    advance(part.stored_bytes if right else 0)
    return right


def _write_changed(path: Path, content: bytes) -> bool:
    if path.exists() and path.read_bytes() == content:
        return False
    write_whole(path, content)
    return True


def _unproved(run: UUID, what: str) -> Failure:
    return Failure(f"run {run}: {what}: try again, then tell the operator", Exit.VERIFICATION)
