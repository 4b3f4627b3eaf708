"""Settings as people write them: the defaults of the contract, nothing bent, nothing ignored, nothing lost."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.jobs import JobSettings

FINGERPRINT = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
NEW_YEAR = "2026-01-01T00:00:00Z"
FIXED = {"kind": "fixed", "from": NEW_YEAR, "to": "2026-02-01T00:00:00Z"}
LAST = {"kind": "last", "unit": "hour"}
SINCE = {"kind": "since_last_run", "from": NEW_YEAR}
ONCE = {"kind": "once"}


def written(**changes: Any) -> dict[str, Any]:
    plain = {
        "title": "A job", "source": "ucs", "type": "interaction",
        "schedule": {"kind": "hourly", "every": 1}, "timeframe": {"kind": "all"},
    }  # fmt: skip
    return {**plain, **changes}


def read(**changes: Any) -> JobSettings:
    return JobSettings.model_validate_json(json.dumps(written(**changes)))


DEFAULTS: dict[str, Any] = {
    "key": None, "description": "", "media_types": "all", "start": None, "ends_at": None, "split_bytes": None,
    "format": "jsonl", "csv_profile": "spreadsheet", "fields": None, "masking": {}, "attachments": None,
    "encryption": "gcm", "recipients": None,
    "overlap": "buffer_one", "catchup": {"mode": "latest", "window": "P7D"}, "jitter": "PT0S",
    "retry": {"attempts": 3, "backoff": "PT1M"}, "pause_after_failures": None, "labels": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("timeframe", "filled", "differs"),
    [
        pytest.param({"kind": "all"}, {"kind": "all"}, {}, id="all"),
        pytest.param(FIXED, FIXED, {}, id="fixed"),
        pytest.param(SINCE, SINCE, {}, id="since_last_run"),
        pytest.param(
            LAST, {"kind": "last", "count": 1, "unit": "hour", "align": True},
            {"overlap": "buffer_all", "catchup": {"mode": "all", "window": "P7D"}}, id="last leaves no slot out",
        ),
    ],
)  # fmt: skip
def test_what_is_left_out_has_the_default_of_the_contract(
    timeframe: dict[str, Any], filled: dict[str, Any], differs: dict[str, Any]
) -> None:
    expected = written(timeframe=filled) | DEFAULTS | differs
    assert json.loads(read(timeframe=timeframe).model_dump_json()) == expected
    assert JobSettings.model_validate(written(timeframe=timeframe)) == read(timeframe=timeframe)


@pytest.mark.parametrize(
    ("changes", "overlap", "mode", "window"),
    [
        pytest.param({"overlap": "skip"}, "skip", "all", "P7D", id="overlap written, catch-up not"),
        pytest.param({"catchup": {"mode": "none"}}, "buffer_all", "none", "P7D", id="catch-up written, overlap not"),
        pytest.param({"catchup": {"window": "P1D"}}, "buffer_all", "all", "P1D", id="half of the catch-up written"),
        pytest.param({"catchup": {}}, "buffer_all", "all", "P7D", id="an empty catch-up"),
        pytest.param(
            {"overlap": "buffer_one", "catchup": {"mode": "latest"}}, "buffer_one", "latest", "P7D",
            id="the defaults of other timeframes, but written",
        ),
    ],
)  # fmt: skip
def test_what_is_written_of_a_last_job_stays(changes: dict[str, Any], overlap: str, mode: str, window: str) -> None:
    found = json.loads(read(timeframe=LAST, **changes).model_dump_json())
    assert (found["overlap"], found["catchup"]) == (overlap, {"mode": mode, "window": window})
    assert JobSettings.model_validate(read(timeframe=LAST, **changes).model_dump()) == read(timeframe=LAST, **changes)


def refusals(changes: dict[str, Any]) -> list[str]:
    """Where the settings are refused, as JSON and as YAML would give them."""
    with pytest.raises(ValidationError) as refused:
        read(**changes)
    with pytest.raises(ValidationError):
        JobSettings.model_validate(written(**changes))
    return [".".join(map(str, error["loc"])) for error in refused.value.errors()]


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        pytest.param({"colour": "red"}, "colour", id="job"),
        pytest.param({"schedule": ONCE | {"at": "06:00"}, "start": NEW_YEAR}, "schedule.once.at", id="once"),
        pytest.param({"schedule": {"kind": "hourly", "every": 1, "at": "06:00"}}, "schedule.hourly.at", id="hourly"),
        pytest.param({"schedule": {"kind": "daily", "at": "06:00", "zone": "UTC"}}, "schedule.daily.zone", id="daily"),
        pytest.param(
            {"schedule": {"kind": "weekly", "days": ["mon"], "at": "06:00", "every": 2}}, "schedule.weekly.every",
            id="weekly",
        ),
        pytest.param(
            {"schedule": {"kind": "monthly", "day": 1, "at": "06:00", "month": 1}}, "schedule.monthly.month",
            id="monthly",
        ),
        pytest.param(
            {"schedule": {"kind": "cron", "expression": "0 0 * * *", "zone": "UTC"}}, "schedule.cron.zone", id="cron"
        ),
        pytest.param({"timeframe": {"kind": "all", "count": 1}}, "timeframe.all.count", id="all"),
        pytest.param({"timeframe": LAST | {"from": NEW_YEAR}}, "timeframe.last.from", id="last"),
        pytest.param({"timeframe": FIXED | {"unit": "day"}}, "timeframe.fixed.unit", id="fixed"),
        pytest.param({"timeframe": FIXED | {"from_": NEW_YEAR}}, "timeframe.fixed.from_", id="a name of the code"),
        pytest.param({"timeframe": SINCE | {"to": NEW_YEAR}}, "timeframe.since_last_run.to", id="since_last_run"),
        pytest.param({"catchup": {"days": 7}}, "catchup.days", id="catchup"),
        pytest.param({"retry": {"jitter": "PT1S"}}, "retry.jitter", id="retry"),
    ],
)  # fmt: skip
def test_an_unknown_field_is_refused_at_every_level(changes: dict[str, Any], place: str) -> None:
    assert refusals(changes) == [place]


@pytest.mark.parametrize("kind", ["fixed", "since_last_run"])
def test_from_is_called_from(kind: str) -> None:
    assert f"timeframe.{kind}.from" in refusals({"timeframe": {"kind": kind, "from_": NEW_YEAR, "to": NEW_YEAR}})


def every(value: object) -> dict[str, Any]:
    return {"schedule": {"kind": "hourly", "every": value}}


def day(value: object) -> dict[str, Any]:
    return {"schedule": {"kind": "monthly", "day": value, "at": "06:00"}}


def last(**changes: object) -> dict[str, Any]:
    return {"timeframe": LAST | changes}


@pytest.mark.parametrize(
    "changes",
    [
        *(pytest.param({"jitter": value}, id=f"duration {value!r}") for value in (60, 60.0, "60", "00:01:00", True)),
        *(pytest.param({"retry": {"backoff": value}}, id=f"backoff {value!r}") for value in (1, None, "P1M", "-PT1M")),
        *(pytest.param({"catchup": {"window": value}}, id=f"window {value!r}") for value in (7, "7D", "P", "P1DT")),
        *(
            pytest.param({"start": value}, id=f"timestamp {value!r}")
            for value in (1767225600, 1767225600.0, "1767225600", "1767225600.5", "-1", True, "2026-01-01", "tomorrow")
        ),
        pytest.param({"start": "2026-01-01T00:00:00"}, id="a timestamp without a zone"),
        pytest.param({"ends_at": "1767225600"}, id="digits for `ends_at`"),
        pytest.param({"timeframe": FIXED | {"to": "1767225601"}}, id="digits for `to`"),
        pytest.param({"timeframe": SINCE | {"from": 1767225600}}, id="a number for `from`"),
        *(pytest.param(every(value), id=f"every {value!r}") for value in ("1", 1.0, True, None, 5, 0, 48)),
        *(pytest.param(day(value), id=f"day {value!r}") for value in ("1", 1.0, True, 0, 32, -1, "first")),
        *(pytest.param(last(count=value), id=f"count {value!r}") for value in ("1", 1.0, True, 0, 1001)),
        *(pytest.param(last(align=value), id=f"align {value!r}") for value in ("true", 1, None)),
        *(pytest.param({"split_bytes": value}, id=f"split {value!r}") for value in ("65536", 65536.0, True)),
        *(pytest.param({"pause_after_failures": value}, id=f"pause {value!r}") for value in ("3", 3.0, True, 0)),
        *(pytest.param({"retry": {"attempts": value}}, id=f"attempts {value!r}") for value in ("3", 3.0, True, 0, 11)),
        *(pytest.param({"title": value}, id=f"title {value!r}") for value in (1, True, None, " ", "a\tb", "a" * 201)),
        pytest.param({"labels": {"team": 1}}, id="a number for a label"),
        pytest.param({"media_types": "voice"}, id="a word for a list"),
    ],
)
def test_a_value_is_not_bent_into_another_type(changes: dict[str, Any]) -> None:
    assert refusals(changes)


@pytest.mark.parametrize(
    ("changes", "because"),
    [
        pytest.param({"schedule": ONCE}, "needs `start`", id="once without a start"),
        pytest.param({"schedule": ONCE, "start": "immediately", "ends_at": NEW_YEAR}, "no `ends_at`", id="once, ends"),
        pytest.param({"start": NEW_YEAR, "ends_at": NEW_YEAR}, "later than `start`", id="ends when it starts"),
        pytest.param({"timeframe": FIXED | {"to": NEW_YEAR}}, "later than `from`", id="nothing between from and to"),
        pytest.param({"timeframe": SINCE, "overlap": "allow_all"}, "one at a time", id="since_last_run side by side"),
        pytest.param({"fields": ["id"], "masking": {"phone": "hash"}}, "not exported: phone", id="a masked non-field"),
        pytest.param({"encryption": "none", "recipients": [FINGERPRINT]}, "no meaning", id="recipients of plaintext"),
        pytest.param(
            {"schedule": {"kind": "weekly", "days": ["mon", "mon"], "at": "06:00"}}, "a day twice", id="Monday twice"
        ),
        pytest.param({"media_types": ["voice", "voice"]}, "one twice", id="a media type twice"),
        pytest.param({"fields": ["id", "id"]}, "one twice", id="a field twice"),
        pytest.param({"recipients": [FINGERPRINT, FINGERPRINT]}, "one twice", id="a recipient twice"),
        *(
            pytest.param({name: []}, "at least 1 item", id=f"no {name}")
            for name in ("media_types", "fields", "recipients")
        ),
        pytest.param({"schedule": {"kind": "weekly", "days": [], "at": "06:00"}}, "at least 1 item", id="no days"),
        pytest.param({"schedule": {"kind": "yearly"}}, "does not match any", id="an unknown kind"),
        *(
            pytest.param({"schedule": {"kind": "daily", "at": text}}, "should match pattern", id=f"at {text!r}")
            for text in ("6:00", "24:00", "06:60", "06:00:00", "06:00\n")
        ),
        pytest.param({"recipients": ["f" * 63]}, "should match pattern", id="not a fingerprint"),
        pytest.param({"key": "a key"}, "should match pattern", id="a key with a space"),
        pytest.param({"split_bytes": 64 * 1024 - 1}, "greater than or equal", id="64 KiB less a byte"),
        pytest.param({"split_bytes": 1024**3 + 1}, "less than or equal", id="a GiB and a byte"),
        pytest.param({"jitter": "PT86401S"}, "less than or equal", id="a day and a second of jitter"),
        pytest.param({"catchup": {"window": "P365D"}}, "less than or equal", id="a window of 365 > 52 · 7 days"),
        pytest.param({"start": "1899-12-31T23:59:59Z"}, "greater than or equal", id="before 1900"),
        pytest.param({"start": "3000-01-01T00:00:00Z"}, "less than", id="3000"),
        pytest.param({"labels": {f"l{n}": "x" for n in range(21)}}, "at most 20 items", id="21 labels"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(changes: dict[str, Any], because: str) -> None:
    with pytest.raises(ValidationError) as refused:
        read(**changes)
    assert any(because in error["msg"] for error in refused.value.errors())


@pytest.mark.parametrize(
    ("expression", "because"),
    [
        pytest.param("0 0 * * * *", "five fields", id="six fields"),
        pytest.param("@midnight", "five fields", id="a nickname"),
        pytest.param("60 0 * * *", "Bad minute", id="minute 60"),
        pytest.param("0 24 * * *", "Bad hour", id="hour 24"),
        pytest.param("*/0 0 * * *", "Bad minute", id="a step of nothing"),
        pytest.param("0 0 * * 8", "Bad day-of-week", id="weekday 8"),
        pytest.param("0 0 * * fri-sun", "Bad day-of-week", id="5-0 runs backwards"),
        pytest.param("0 0 30 2 *", "Bad day-of-month", id="30 February"),
        pytest.param("0 0 31 4,6 *", "Bad day-of-month", id="31 April or June"),
        pytest.param("0 0 */9 2 1#5", "never comes", id="1, 10, 19 or 28 February is no fifth Monday"),
        pytest.param("5-5/15 * * * *", "such as 5-5/15", id="cron reads 5, CronSim 5-59/15"),
        pytest.param("0 0 * * 01-1/2", "such as 5-5/15", id="the same with a zero"),
    ],
)
def test_a_cron_expression_that_cannot_be_right_is_refused(expression: str, because: str) -> None:
    with pytest.raises(ValidationError, match=because):
        read(schedule={"kind": "cron", "expression": expression})


@pytest.mark.parametrize("expression", ["1-11/2 * * * *", "0 10-10 * * *", "0,5-15/2 * * * *", "0 0 1-12/1 * *"])
def test_other_ranges_with_steps_are_not_taken_for_that(expression: str) -> None:
    assert read(schedule={"kind": "cron", "expression": expression})


def test_a_timestamp_with_an_offset_is_converted() -> None:
    assert read(start="2026-03-29T03:30:00+02:00").start == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("PT0S", 0), ("PT90M", 5400), ("P1D", 86400), ("PT1H1M1S", 3661), ("PT1.5S", 1.5), ("PT86400S", 86400)],
)
def test_durations_are_iso_8601(text: str, seconds: float) -> None:
    assert read(jitter=text).jitter == timedelta(seconds=seconds)


def test_settings_written_before_these_fields_existed_are_read() -> None:
    """As the contract test of the release before had it, without one field that came later."""
    before = {
        "key": "nightly-voice", "title": "Voice – every four hours", "description": "For the data warehouse",
        "source": "ucs", "type": "interaction", "media_types": ["voice", "chat"],
        "schedule": {"kind": "hourly", "every": 4}, "start": "2026-03-29T00:00:00Z", "ends_at": "2027-01-01T00:00:00Z",
        "timeframe": {"kind": "last", "count": 4, "unit": "hour", "align": True}, "split_bytes": 67108864,
        "format": "jsonl", "encryption": "gcm", "recipients": [FINGERPRINT],
        "retry": {"attempts": 5, "backoff": "PT0.5S"}, "labels": {"team": "analytics"},
    }  # fmt: skip
    now = json.loads(JobSettings.model_validate_json(json.dumps(before)).model_dump_json())
    assert now == before | {
        "csv_profile": "spreadsheet", "fields": None, "masking": {}, "attachments": None,
        "overlap": "buffer_all", "catchup": {"mode": "all", "window": "P7D"},
        "jitter": "PT0S", "pause_after_failures": None,
    }  # fmt: skip


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def kinds(name: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"kind": st.just(name), **fields})


moments = st.datetimes(datetime(1900, 1, 1), datetime(2999, 12, 31)).map(lambda moment: moment.isoformat() + "Z")  # noqa: DTZ001
times = st.times().map(lambda time: f"{time:%H:%M}")
days = st.lists(st.sampled_from(("mon", "tue", "wed", "thu", "fri", "sat", "sun")), min_size=1, unique=True)
lines = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=20).filter(str.strip)
slugs = st.from_regex(r"\A[a-z][a-z0-9_]{0,9}\Z")
columns = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=9)
seconds = st.timedeltas(timedelta(0), timedelta(days=1)).map(lambda delta: f"PT{delta.total_seconds():.6f}S")
schedules = st.one_of(
    kinds("hourly", every=st.sampled_from((1, 2, 3, 4, 6, 8, 12, 24))),
    kinds("daily", at=times),
    kinds("weekly", days=days, at=times),
    kinds("monthly", day=st.integers(1, 31) | st.just("last"), at=times),
    kinds("cron", expression=st.sampled_from(("*/5 * * * *", "0 6 * * mon-fri", "0 0 L * *", "0 0 29 2 */7"))),
)
lasts = kinds("last", unit=st.sampled_from(("hour", "day", "week", "month")))
timeframes = st.one_of(
    kinds("all"),
    lasts,
    st.builds(lambda last, more: last | more, lasts, optional(count=st.integers(1, 1000), align=st.booleans())),
    st.lists(moments, min_size=2, max_size=2, unique=True).map(
        lambda pair: {
            "kind": "fixed",
            "from": min(pair, key=datetime.fromisoformat),
            "to": max(pair, key=datetime.fromisoformat),
        }
    ),
    kinds("since_last_run", **{"from": moments}),
)
rest = optional(
    key=st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,9}\Z"), description=columns,
    start=st.just("immediately") | moments,
    media_types=st.just("all") | st.lists(slugs, min_size=1, max_size=3, unique=True),
    split_bytes=st.integers(64 * 1024, 1024**3), format=st.sampled_from(("jsonl", "csv")),
    masking=st.dictionaries(columns, st.sampled_from(("hash", "redact")), max_size=3),
    attachments=st.none() | st.booleans(),
    csv_profile=st.sampled_from(("spreadsheet", "faithful")),
    recipients=st.just([FINGERPRINT]), encryption=st.sampled_from(("gcm", "smime")),
    overlap=st.sampled_from(("buffer_one", "buffer_all", "skip", "cancel_other")),
    catchup=optional(mode=st.sampled_from(("latest", "all", "none")), window=seconds), jitter=seconds,
    retry=optional(attempts=st.integers(1, 10), backoff=seconds), pause_after_failures=st.integers(1, 1000),
    labels=st.dictionaries(slugs, lines, max_size=3),
)  # fmt: skip
recurring = st.builds(
    lambda more, **needed: needed | more, rest,
    title=lines, source=slugs, type=slugs, schedule=schedules, timeframe=timeframes,
)  # fmt: skip
one_time = st.builds(lambda job, start: job | {"schedule": ONCE, "start": start}, recurring, moments)


@effort(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(job=recurring | one_time)
def test_nothing_is_lost_on_the_way_through_json(job: dict[str, Any]) -> None:
    first = JobSettings.model_validate_json(json.dumps(job))
    text = first.model_dump_json()
    assert JobSettings.model_validate_json(text) == first
    assert JobSettings.model_validate(first.model_dump()) == first
    assert JobSettings.model_validate_json(text).model_dump_json() == text
    # What was written and has one spelling is there as it was written.
    again = json.loads(text)
    spelled = ("schedule", "media_types", "overlap", "masking", "format", "key", "split_bytes", "pause_after_failures")
    assert {name: again[name] for name in spelled if name in job} == {
        name: job[name] for name in spelled if name in job
    }


@pytest.mark.parametrize(
    ("written", "come_along"),
    [
        pytest.param({}, True, id="nothing is hidden"),
        pytest.param({"fields": ["id"]}, False, id="fields narrow the rows"),
        pytest.param({"masking": {"text": "redact"}}, False, id="masking hides some"),
        pytest.param({"fields": ["id"], "attachments": True}, True, id="asked for"),
        pytest.param({"attachments": False}, False, id="not wanted"),
    ],
)
def test_attachments_come_along_unless_something_is_hidden(written: dict[str, Any], come_along: bool) -> None:
    assert read(**written).with_attachments is come_along
