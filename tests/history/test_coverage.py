"""The calendar of a job against one that looks at every hour by itself."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from services.history.domain.coverage import CANCELLED, NAMED, Run, Segment, State, Unrun, coverage, unrun_slots
from shared.events import RunState
from shared.jobs import JobSettings

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
BEGIN, END = NOON, NOON + 12 * HOUR

hours = st.integers(-4, 16)
stretches = st.tuples(hours, hours).map(sorted)


@st.composite
def runs(draw: st.DrawFn) -> list[Run]:
    found: list[Run] = []
    for number in range(draw(st.integers(0, 8))):
        begin, end = draw(stretches)
        state = draw(st.sampled_from(list(RunState)))
        found.append(
            Run(
                NOON + draw(st.integers(0, 3)) * HOUR, UUID(int=number), state,
                None if draw(st.integers(0, 5)) == 0 else NOON + begin * HOUR, NOON + end * HOUR,
                f"r{number % 2}" if state is RunState.FAILED else None,
            )
        )  # fmt: skip
    return found


unrun = st.lists(
    st.builds(
        lambda stretch, at, reason: Unrun(NOON + at * HOUR, NOON + stretch[0] * HOUR, NOON + stretch[1] * HOUR, reason),
        stretches, hours, st.sampled_from(["overlap", "suspended"]),
    ),
    max_size=4,
)  # fmt: skip


def at(hour: datetime, found: list[Run], left_out: list[Unrun]) -> Segment:
    """What became of one hour, by looking at everything."""
    covering = sorted(
        (run for run in found if (run.begin is None or run.begin <= hour) and hour < run.end),
        key=lambda run: (run.requested_at, run.run_id),
        reverse=True,
    )
    exported = [run for run in covering if run.state is RunState.SUCCEEDED]
    going = [run for run in covering if not run.state.terminal]

    def segment(state: State, made_by: list[Run], reason: str | None = None) -> Segment:
        return Segment(hour, hour + HOUR, state, tuple(run.run_id for run in made_by), len(made_by), reason)

    if exported:
        return segment(State.EXPORTED if len(exported) == 1 else State.OVERLAPPING, exported)
    if going:
        return segment(State.IN_PROGRESS, going)
    if covering:
        newest = covering[0]
        return segment(State.MISSING, covering, CANCELLED if newest.state is RunState.CANCELLED else newest.reason)
    slots = [slot for slot in left_out if slot.begin <= hour < slot.end]
    if slots:
        last = max(slots, key=lambda slot: (slot.slot_at, slot.reason))
        return Segment(hour, hour + HOUR, State.MISSING, reason=last.reason, slot_at=last.slot_at)
    return Segment(hour, hour + HOUR, State.MISSING)


def what(segment: Segment) -> tuple[object, ...]:
    return segment.state, segment.runs, segment.run_count, segment.reason, segment.slot_at


@given(runs(), unrun)
def test_the_calendar_is_the_one_of_its_hours(found: list[Run], left_out: list[Unrun]) -> None:
    segments = coverage(found, left_out, BEGIN, END)

    assert (segments[0].begin, segments[-1].end) == (BEGIN, END)
    assert all(one.end == other.begin for one, other in pairwise(segments))
    assert all(what(one) != what(other) for one, other in pairwise(segments))
    for segment in segments:
        hour = segment.begin
        while hour < segment.end:
            assert what(segment) == what(at(hour, found, left_out))
            hour += HOUR
        assert hour == segment.end


@given(runs(), unrun, st.randoms())
def test_the_order_of_runs_makes_no_difference(found: list[Run], left_out: list[Unrun], random: object) -> None:
    shuffled, others = list(found), list(left_out)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    random.shuffle(others)  # type: ignore[attr-defined]
    assert coverage(shuffled, others, BEGIN, END) == coverage(found, left_out, BEGIN, END)


def test_a_segment_names_its_newest_runs_and_counts_all() -> None:
    found = [Run(NOON + n * HOUR, UUID(int=n), RunState.SUCCEEDED, None, END) for n in range(NAMED + 5)]

    [segment] = coverage(found, [], BEGIN, END)

    assert (segment.state, segment.run_count, len(segment.runs)) == (State.OVERLAPPING, NAMED + 5, NAMED)
    assert segment.runs[0] == UUID(int=NAMED + 4)


def settings(**changes: object) -> JobSettings:
    return JobSettings.model_validate(
        {
            "title": "A job", "source": "ucs", "type": "interaction", "schedule": {"kind": "daily", "at": "02:00"},
            "timeframe": {"kind": "last", "count": 1, "unit": "day"}, **changes,
        }
    )  # fmt: skip


def test_an_entry_about_many_slots_is_about_the_data_of_each() -> None:
    slot_at = datetime(2026, 5, 4, 2, tzinfo=UTC)

    found = list(unrun_slots(settings(), slot_at, 3, "suspended"))

    days = [datetime(2026, 5, day, tzinfo=UTC) for day in (3, 4, 5, 6)]
    assert [(slot.begin, slot.end) for slot in found] == list(pairwise(days))


def test_slots_of_a_schedule_that_ended_are_not_made_up() -> None:
    ended = settings(ends_at="2026-05-05T00:00:00Z")
    assert len(list(unrun_slots(ended, datetime(2026, 5, 4, 2, tzinfo=UTC), 9, "suspended"))) == 1


def test_a_slot_leaves_nothing_out_where_the_next_one_covers_it() -> None:
    since = settings(timeframe={"kind": "since_last_run", "from": "2026-01-01T00:00:00Z"})
    assert list(unrun_slots(since, NOON, 3, "suspended")) == []
