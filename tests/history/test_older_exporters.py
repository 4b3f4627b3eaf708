"""Exporters of earlier versions do not say when a run was requested: history knows it, or refuses to guess."""

import pytest

from services.history.domain.batch import Unplaceable
from services.history.store import Store
from shared.database import Database
from shared.events import ArtifactDeleted, Event, RunEvent, RunProgressed
from tests.history.events import Run, empty, everything, project


def life(run: Run) -> tuple[Event, list[Event]]:
    """The request, and the events of all kinds that follow."""
    rest = [run.queued(), run.started(), run.progressed(), run.attempt_failed(), run.started(), run.progressed()]
    return run.requested(), [*rest, *run.succeeded(), run.downloaded(1), run.deleted(1)]


def of_an_older_exporter(events: list[Event]) -> list[Event]:
    """The same as they were told before `requested_at` was added."""
    older = [
        event.model_copy(update={"requested_at": None})
        if isinstance(event, RunEvent | RunProgressed | ArtifactDeleted)
        else event
        for event in events
    ]
    assert older != events
    return older


async def test_they_are_placed_by_the_run_that_is_known(store: Store, database: Database) -> None:
    request, rest = life(Run())
    await project(store, [request, *rest])
    expected = without_bodies(await everything(database))

    await empty(database)
    for event in [request, *of_an_older_exporter(rest)]:
        await project(store, [event])

    assert without_bodies(await everything(database)) == expected


async def test_the_request_may_be_in_the_same_batch_even_behind_them(store: Store, database: Database) -> None:
    request, rest = life(Run())
    await project(store, [request, *rest])
    expected = without_bodies(await everything(database))

    for batch in ([request, *of_an_older_exporter(rest)], [*of_an_older_exporter(rest), request]):
        await empty(database)
        await project(store, batch)
        assert without_bodies(await everything(database)) == expected


async def test_a_newer_exporters_event_makes_the_run_known_without_its_request(
    store: Store, database: Database
) -> None:
    run = Run()
    queued, started = run.queued(), run.started()

    await project(store, [queued])
    await project(store, of_an_older_exporter([started]))

    (row,) = (await everything(database))["executions"]
    assert (row["requested_at"], row["state"]) == (run.requested_at, "running")


async def test_of_a_run_that_nobody_knows_they_are_refused_and_leave_nothing(store: Store, database: Database) -> None:
    known, unknown = Run(), Run()
    request, rest = life(known)
    _, lost = life(unknown)

    for event in of_an_older_exporter(lost):
        if getattr(event, "requested_at", known) is None:
            with pytest.raises(Unplaceable, match=str(unknown.run_id)):
                await project(store, [request, *rest, event])

    assert not any((await everything(database)).values())


async def test_once_the_run_is_known_what_was_refused_can_be_replayed(store: Store, database: Database) -> None:
    request, rest = life(Run())
    await project(store, [request, *rest])
    expected = without_bodies(await everything(database))
    await empty(database)
    older = of_an_older_exporter(rest)
    with pytest.raises(Unplaceable):
        await project(store, older)

    await project(store, [request])
    await project(store, older)

    assert without_bodies(await everything(database)) == expected


def without_bodies(rows: dict[str, list[dict[str, object]]]) -> dict[str, list[dict[str, object]]]:
    """All tables; but the timeline keeps events as they came."""
    for row in rows["events"]:
        del row["body"]
    return rows
