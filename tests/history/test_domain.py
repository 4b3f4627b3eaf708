import pytest

from services.history.domain import STATES, change, newest_ticks
from shared.events import EVENT_TYPES, EXPORTED_RUNS, RunEvent, RunState
from tests.history.events import Run


def test_every_event_of_a_runs_life_has_a_state_and_no_other_has() -> None:
    about_runs = {event for event in EVENT_TYPES.values() if issubclass(event, RunEvent)}

    assert {event.__name__ for event in about_runs - set(STATES)} == {"ArtifactStored"}
    assert all(event.topic is EXPORTED_RUNS for event in STATES)
    assert set(STATES.values()) == set(RunState) - {RunState.REQUESTED}


def test_an_attempt_that_failed_puts_the_run_back_into_the_queue_and_says_why() -> None:
    run = Run()
    run.started()

    said = change(run.attempt_failed())

    assert said is not None
    assert (said.state, said.attempt, said.reason, said.message) == ("queued", 1, "export_failed", "attempt 1")
    assert said.finished_at is None


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
def test_an_end_says_when(end: str) -> None:
    run = Run()
    ended = run.succeeded()[-1] if end == "succeeded" else getattr(run, end)()

    said = change(ended)

    assert said is not None
    assert (said.state, said.finished_at) == (end, ended.occurred_at)


def test_a_stored_part_says_nothing_about_the_state() -> None:
    assert change(Run().succeeded()[0]) is None


def test_of_many_ticks_only_the_greatest_of_each_run_counts() -> None:
    one, two = Run(), Run()
    late = one.progressed(attempt=2, sequence=1)
    ticks = [one.progressed(attempt=1, sequence=9), late, one.progressed(attempt=1, sequence=10)]
    other = two.progressed(attempt=1, sequence=1)

    assert newest_ticks([*ticks, other]) == [late, other]
    assert newest_ticks([]) == []
