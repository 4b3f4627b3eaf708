import pytest

from services.history.domain.facts import STATES
from shared.events import EVENT_TYPES, EXPORTED_RUNS, RunEvent, RunState
from tests.history.events import Run, batch


def test_every_event_of_a_runs_life_has_a_state_and_no_other_has() -> None:
    about_runs = {event for event in EVENT_TYPES.values() if issubclass(event, RunEvent)}

    assert {event.__name__ for event in about_runs - set(STATES)} == {"ArtifactStored"}
    assert all(event.topic is EXPORTED_RUNS for event in STATES)
    assert set(STATES.values()) == set(RunState) - {RunState.REQUESTED}


def test_an_attempt_that_failed_puts_the_run_back_into_the_queue_and_says_why() -> None:
    run = Run()

    (said,) = batch([run.started(), run.attempt_failed()]).executions.values()

    assert (said.state, said.attempt, said.reason, said.message) == ("queued", 1, "export_failed", "attempt 1")
    assert (said.finished_at, said.worker) == (None, "w1")


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
def test_an_end_says_when_and_nothing_that_comes_later_counts(end: str) -> None:
    run = Run()
    ended = run.succeeded()[-1] if end == "succeeded" else getattr(run, end)()

    (said,) = batch([ended, run.started()]).executions.values()

    assert (said.state, said.finished_at) == (end, ended.occurred_at)


def test_the_last_failure_is_shown_in_whatever_order_they_come() -> None:
    run = Run()
    run.started()
    first = run.attempt_failed()
    run.started()
    second = run.failed()

    for order in ([first, second], [second, first]):
        (said,) = batch(order).executions.values()
        assert (said.state, said.reason, said.message) == ("failed", second.reason, second.message)


def test_a_stored_part_is_a_file_and_says_nothing_about_the_state() -> None:
    run = Run()
    stored, *_ = run.succeeded()

    said = batch([run.deleted(1), stored])

    assert not said.executions
    (file,) = said.files.values()
    assert (file.number, file.stored_at, file.deletion_reason) == (1, stored.occurred_at, "expired")


def test_of_many_ticks_only_the_greatest_of_each_run_counts() -> None:
    one, two = Run(), Run()
    late = one.progressed(attempt=2, sequence=1)
    ticks = [one.progressed(attempt=1, sequence=9), late, one.progressed(attempt=1, sequence=10)]
    other = two.progressed(attempt=1, sequence=1)

    assert batch([*ticks, other]).newest_ticks() == [late, other]


def test_a_tick_of_a_run_that_ended_in_the_same_batch_does_not_count() -> None:
    ended, running = Run(), Run()
    ticks = [ended.progressed(), running.progressed()]

    assert batch([running.started(), *ticks, ended.failed()]).newest_ticks() == [ticks[1]]
