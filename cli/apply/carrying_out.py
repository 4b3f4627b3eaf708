"""What was planned, shown to the service before, and then done, several jobs at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from cli import settings
from cli.apply.planning import Change, Step, step_for
from cli.client import Client, Document, Refused
from cli.console import Failure
from cli.documents import FileFault, FilesRefused
from shared.jobs import JobSettings

AT_ONCE: Final = 8
"""Requests; enough to keep a job_api busy, and few enough to leave it to others, too."""
ATTEMPTS: Final = 3
_CHANGED: Final = 412
_NOT_FOUND: Final = 404
_UNTIL_NOW: Final = frozenset({"/ends_at", "/schedule/expression"})
"""Where the service refuses a schedule without slots, unless an edit leaves it as it was."""

_T = TypeVar("_T")
_R = TypeVar("_R")


class Outcome(StrEnum):
    """What became of a step."""

    CREATED = "created"
    CHANGED = "changed"
    DELETED = "deleted"
    UNCHANGED = "unchanged"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Done:
    """How a step ended; a step that was planned anew is the new one, and `message` says so."""

    step: Step
    outcome: Outcome
    message: str = ""
    job_id: str | None = None


def check(client: Client, steps: Iterable[Step]) -> None:
    """Show the service every job that is to be created or changed. Raises FilesRefused with all that is wrong."""

    def faults(step: Step) -> list[FileFault]:
        return list(_faults(client, step))

    checked = [step for step in steps if step.change in (Change.CREATE, Change.CHANGE)]
    if found := [fault for _, found in _at_once(faults, checked) for fault in found]:
        raise FilesRefused(sorted(found, key=lambda fault: (fault.file, fault.line or 0)))


def _faults(client: Client, step: Step) -> Iterator[FileFault]:
    assert step.wanted is not None
    wanted = step.wanted
    try:
        with settings.in_file(wanted.written, wanted.pointer):
            shown = settings.preview(client, wanted.content)
    except FilesRefused as refused:
        kept = _kept_pointers(step)
        yield from (fault for fault in refused.faults if fault.fault.pointer not in kept)
        return
    if shown["certificate_required"]:
        yield wanted.written.fault(
            f"{wanted.pointer}/encryption", "there is no valid certificate for it", "Add one: `cdds certificates add`."
        )


def _kept_pointers(step: Step) -> frozenset[str]:
    """Where nothing is refused, because an edit leaves the times of the job as they were."""
    if step.job is None or step.wanted is None:
        return frozenset()
    same = _times(settings.of(step.job)) == _times(step.wanted.settings)
    return frozenset(step.wanted.pointer + pointer for pointer in _UNTIL_NOW) if same else frozenset()


def _times(of: JobSettings) -> tuple[object, ...]:
    return of.schedule, of.start, of.ends_at


def carry_out(client: Client, steps: Sequence[Step], told: Callable[[Done], None]) -> list[Done]:
    """Do the steps; each that ends is told of. Raises Failure when the service is away, with the rest left undone."""
    to_do = [step for step in steps if step.change in (Change.CREATE, Change.CHANGE, Change.DELETE)]
    done: list[Done] = []
    try:
        for _, one in _at_once(lambda step: _step(client, step), to_do):
            told(one)
            done.append(one)
    except Failure as failure:
        raise Failure(
            f"{failure}\n{len(done)} of {len(to_do)} changes were made; apply the same files again to make the others",
            failure.code,
        ) from failure
    return done


def _step(client: Client, step: Step) -> Done:
    """The step, planned anew as often as somebody else is faster; what the service refuses is a failure of it."""
    message = ""
    for _ in range(ATTEMPTS):
        try:
            return _try(client, step, message)
        except Refused as refused:
            again = _planned_anew(client, step, refused)
            if again is None:
                return Done(step, Outcome.FAILED, str(refused))
            # Found as it should be, it may have been our own change, the answer to which was lost.
            step, message = again, "" if again.change is Change.UNCHANGED else "changed by somebody else meanwhile"
    return Done(step, Outcome.FAILED, "somebody else changes it all the time: apply the files again")


def _try(client: Client, step: Step, message: str) -> Done:
    match step.change:
        case Change.CREATE:
            assert step.wanted is not None
            job = client.post("/jobs", step.wanted.content)
            return Done(step, Outcome.CREATED, message, job["id"])
        case Change.CHANGE:
            assert step.wanted is not None
            assert step.job is not None
            client.put(f"/jobs/{step.job['id']}", step.wanted.content, version=step.job["version"])
            return Done(step, Outcome.CHANGED, message, step.job["id"])
        case Change.DELETE:
            assert step.job is not None
            client.delete(f"/jobs/{step.job['id']}", version=step.job["version"])
            return Done(step, Outcome.DELETED, message, step.job["id"])
        case Change.KEPT:
            return Done(step, Outcome.FAILED, step.reason)
        case Change.UNCHANGED:
            return Done(step, Outcome.UNCHANGED, message)


def _planned_anew(client: Client, step: Step, refused: Refused) -> Step | None:
    """The step that is due now that another version of the job is there; None when that is not why it was refused."""
    job = step.job
    if job is None:
        assert step.wanted is not None
        taken = any(fault.pointer == "/key" for fault in refused.faults)
        return step_for(step.wanted, _with_key(client, step.key)) if taken else None
    if refused.status not in (_CHANGED, _NOT_FOUND):
        return None
    now = _still_there(client, job["id"])
    if step.wanted is not None:
        return step_for(step.wanted, now)
    if now is None or now["settings"]["key"] != step.key:
        return Step(step.key, Change.UNCHANGED, job=job)
    return Step(step.key, Change.DELETE, job=now)


def _still_there(client: Client, job_id: str) -> Document | None:
    try:
        return client.json(f"/jobs/{job_id}")
    except Refused as refused:
        if refused.status != _NOT_FOUND:
            raise
        return None


def _with_key(client: Client, key: str) -> Document | None:
    return next((job for job in client.items("/jobs", sort="created_at") if job["settings"]["key"] == key), None)


def _at_once(do: Callable[[_T], _R], of: Sequence[_T]) -> Iterator[tuple[_T, _R]]:
    """What `do` gives for each, as it comes; after an error, or when nobody wants more, no other is begun."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures: dict[Future[_R], _T] = {pool.submit(do, one): one for one in of}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
