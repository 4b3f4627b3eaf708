"""What the job editor's form says, what it shows, and what it does about two people."""

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from services.console.domain.forms import backfills, choices, conflicts
from services.console.domain.forms.faults import Fault, by_input, faults_of
from services.console.domain.forms.form import Form
from services.console.domain.forms.settings import FRESH, form_of, settings_of
from shared.jobs import JobSettings
from tests.shared.test_jobs import columns, moments, one_time, recurring

Job = dict[str, Any]

STARTED: Job = {**FRESH, "source": "ucs", "type": "interaction"}
SOURCES: list[Job] = [
    {
        "name": "ucs", "title": "UCS", "allow_plaintext": False,
        "types": [
            {
                "name": "interaction", "title": "Interaction", "media_types": ["voice", "chat"], "error": None,
                "fields": [{"name": "id", "type": "text"}, {"name": "mail", "type": "text"}],
            },
            {"name": "contact", "title": "Contact", "media_types": [], "error": None,
             "fields": [{"name": "id", "type": "text"}]},
        ],
    },
    {"name": "flights", "title": "Flights", "allow_plaintext": True, "types": [
        {"name": "flight", "title": "Flight", "media_types": [], "error": "away", "fields": None}]},
]  # fmt: skip


def sent(form: Form) -> Form:
    """The form as a browser sends it back."""
    pairs = [(name, value) for name, texts in form.values.items() for value in texts]
    return Form.sent((name, re.sub(r"\r\n|\r|\n", "\r\n", value)) for name, value in pairs)


@st.composite
def selecting(draw: st.DrawFn, jobs: st.SearchStrategy[Job]) -> Job:
    """Jobs of which some export only some fields, or stop some time."""
    job: Job = dict(draw(jobs))
    if draw(st.booleans()):
        some = [*job.get("masking", {}), *draw(st.lists(columns, min_size=1, max_size=3))]
        job["fields"] = list(dict.fromkeys(some))
    if job["schedule"]["kind"] != "once" and "start" not in job and draw(st.booleans()):
        job["ends_at"] = draw(moments)
    return job


jobs = selecting(recurring | one_time)
thoroughly = effort(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def as_saved(job: Job) -> Job:
    """The settings as the API answers them."""
    saved: Job = JobSettings.model_validate_json(json.dumps(job)).model_dump(mode="json")
    return saved


# --- settings -> form -> settings ---------------------------------------------------------------------------------


@thoroughly
@given(job=jobs)
def test_a_form_that_nobody_changed_says_the_settings_it_was_made_of(job: Job) -> None:
    for settings in (as_saved(job), job):
        read = settings_of(sent(form_of(settings)), settings)
        assert (read.settings, read.faults) == (settings, ())


@thoroughly
@given(job=jobs)
def test_the_inputs_can_say_every_setting(job: Job) -> None:
    saved = as_saved(job)
    read = settings_of(form_of(saved), {})
    assert not read.faults
    if saved["schedule"]["kind"] == "weekly":
        saved["schedule"]["days"].sort(key=["mon", "tue", "wed", "thu", "fri", "sat", "sun"].index)
    assert as_saved(read.settings) == saved


def test_what_the_inputs_cannot_say_stays_as_it_was() -> None:
    before = {
        **STARTED, "title": "A", "description": "one\r\ntwo\rthree", "invented": {"later": 1},
        "timeframe": {"kind": "last", "unit": "day"}, "jitter": "PT60S",
        "schedule": {"kind": "weekly", "days": ["fri", "mon"], "at": "02:00"},
    }  # fmt: skip
    assert settings_of(sent(form_of(before)), before).settings == before
    changed = settings_of(sent(form_of(before).with_values(title="B")), before)
    assert changed.settings == {**before, "title": "B"}


def test_the_order_in_which_a_browser_sends_choices_changes_nothing() -> None:
    before = {**STARTED, "title": "A", "media_types": ["voice", "chat"], "fields": ["b", "a"]}
    form = form_of(before).with_values(media=["chat", "voice"], field=["a", "b"])
    assert settings_of(form, before).settings == before


# --- what is left out ---------------------------------------------------------------------------------------------


def new(**typed: str | list[str]) -> Form:
    """A new job's form after somebody typed in it."""
    return form_of({**STARTED, "title": "A job"}).with_values(**typed)


def test_a_new_job_leaves_to_the_api_what_nobody_touched() -> None:
    read = settings_of(new(), {})
    assert read.settings == {"title": "A job", **STARTED}
    assert JobSettings.model_validate(read.settings).overlap == "buffer_all"


def test_a_default_that_is_chosen_is_taken_out_again() -> None:
    before = as_saved({**STARTED, "title": "A"})
    read = settings_of(form_of(before).with_values(overlap="", catchup_mode="", timeframe_kind="all"), before)
    assert "overlap" not in read.settings
    assert read.settings["catchup"] == {"window": "P7D"}


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        pytest.param({"overlap": "skip"}, {"overlap": "skip"}, id="overlap"),
        pytest.param({"catchup_mode": "none"}, {"catchup": {"mode": "none", "window": "P7D"}}, id="catch-up"),
        pytest.param({"window_number": "36", "window_unit": "hours"}, {"catchup": {"window": "P1DT12H"}}, id="window"),
        pytest.param({"jitter_number": "1.5"}, {"jitter": "PT1M30S"}, id="jitter"),
        pytest.param({"attempts": "5"}, {"retry": {"attempts": 5, "backoff": "PT1M"}}, id="attempts"),
        pytest.param({"split_number": "1.5", "split_unit": "MiB"}, {"split_bytes": 1572864}, id="split size"),
        pytest.param({"attachments": "no"}, {"attachments": False}, id="attachments"),
        pytest.param({"media_all": [], "media": ["chat"]}, {"media_types": ["chat"]}, id="media types"),
        pytest.param(
            {"column": ["id", "mail"], "mask": ["none", "hash"]}, {"masking": {"mail": "hash"}}, id="masking"
        ),
        pytest.param(
            {"all_fields": [], "field": ["id"], "column": ["id", "mail"], "mask": ["none", "hash"]}, {"fields": ["id"]},
            id="nothing is masked that is not exported",
        ),
        pytest.param(
            {"label_name": ["team", "", " site "], "label_value": ["a=b: c", "", "x"]},
            {"labels": {"team": "a=b: c", "site": "x"}}, id="labels",
        ),
        pytest.param({"start_kind": "immediately"}, {"start": "immediately"}, id="immediately"),
        pytest.param(
            {"start_kind": "at", "start_date": "2027-01-02", "start_time": "03:04"}, {"start": "2027-01-02T03:04:00Z"},
            id="start",
        ),
        pytest.param({"ends_date": "2027-12-31"}, {"ends_at": "2028-01-01T00:00:00Z"}, id="the last day is included"),
        pytest.param(
            {"timeframe_kind": "fixed", "from_date": "2026-01-01", "to_date": "2026-03-31"},
            {"timeframe": {"kind": "fixed", "from": "2026-01-01T00:00:00Z", "to": "2026-04-01T00:00:00Z"}},
            id="an end date is included",
        ),
        pytest.param(
            {"timeframe_kind": "fixed", "from_date": "2026-01-01", "to_date": "2026-03-31", "to_time": "00:00"},
            {"timeframe": {"kind": "fixed", "from": "2026-01-01T00:00:00Z", "to": "2026-03-31T00:00:00Z"}},
            id="an end time is not",
        ),
        pytest.param(
            {"schedule_kind": "monthly", "day": "31", "at": "23:59"},
            {"schedule": {"kind": "monthly", "day": 31, "at": "23:59"}}, id="monthly",
        ),
        pytest.param(
            {"schedule_kind": "once", "start_kind": "immediately", "ends_date": "2027-01-01"},
            {"schedule": {"kind": "once"}, "start": "immediately"}, id="a one-time job does not end",
        ),
        pytest.param({"encryption": "none", "all_recipients": [], "recipient": ["f" * 64]}, {"encryption": "none"},
                     id="nobody receives what is not encrypted"),
    ],
)  # fmt: skip
def test_what_was_typed_is_said_as_the_api_takes_it(typed: dict[str, Any], expected: Job) -> None:
    read = settings_of(new(**typed), {})
    assert not read.faults
    assert read.settings == {"title": "A job", **STARTED, **expected}


# --- faults -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "pointer"),
    [
        ({"title": " "}, "/title"),
        ({"source": ""}, "/source"),
        ({"type": ""}, "/type"),
        ({"schedule_kind": ""}, "/schedule"),
        ({"timeframe_kind": ""}, "/timeframe"),
        ({"at": "25:00"}, "/schedule/at"),
        ({"at": ""}, "/schedule/at"),
        ({"schedule_kind": "hourly", "every": "x"}, "/schedule/every"),
        ({"schedule_kind": "weekly", "days": []}, "/schedule/days"),
        ({"schedule_kind": "monthly", "day": "1.5"}, "/schedule/day"),
        ({"schedule_kind": "cron", "expression": " "}, "/schedule/expression"),
        ({"schedule_kind": "once"}, "/start"),
        ({"start_kind": "at"}, "/start"),
        ({"start_kind": "at", "start_date": "2026-02-30"}, "/start"),
        ({"start_kind": "at", "start_date": "2026-02-01", "start_time": "24:00"}, "/start"),
        ({"ends_time": "03:00"}, "/ends_at"),
        ({"ends_date": "9999-12-31"}, "/ends_at"),
        ({"count": "-1"}, "/timeframe/count"),
        ({"count": ""}, "/timeframe/count"),
        ({"count": "1" * 5000}, "/timeframe/count"),
        ({"timeframe_kind": "fixed", "to_date": "2026-01-01"}, "/timeframe/from"),
        ({"timeframe_kind": "fixed", "from_date": "2026-01-01"}, "/timeframe/to"),
        ({"timeframe_kind": "since_last_run"}, "/since"),
        ({"split_number": "lots"}, "/split_bytes"),
        ({"split_number": "1e9"}, "/split_bytes"),
        ({"split_number": "0.3", "split_unit": "bytes"}, "/split_bytes"),
        ({"media_all": []}, "/media_types"),
        ({"all_fields": []}, "/fields"),
        ({"all_recipients": []}, "/recipients"),
        ({"jitter_number": "1,5"}, "/jitter"),
        ({"window_number": "9" * 15, "window_unit": "days"}, "/catchup/window"),
        ({"backoff_number": "0.0000001", "backoff_unit": "seconds"}, "/retry/backoff"),
        ({"attempts": "three"}, "/retry/attempts"),
        ({"pause_after_failures": "-"}, "/pause_after_failures"),
        ({"label_name": ["a", "a"], "label_value": ["1", "2"]}, "/labels"),
        ({"label_name": [""], "label_value": ["1"]}, "/labels"),
    ],
)
def test_what_cannot_be_read_is_told_at_its_input(typed: dict[str, Any], pointer: str) -> None:
    read = settings_of(new(**typed), {})
    assert [fault.pointer for fault in read.faults] == [pointer]
    assert read.faults[0].input


def test_faults_come_in_the_order_of_the_page() -> None:
    form = new(title="", count="x", at="", label_name=["a", "a"], label_value=["", ""])
    pointers = [fault.pointer for fault in settings_of(form, {}).faults]
    assert pointers == ["/title", "/schedule/at", "/timeframe/count", "/labels"]


@pytest.mark.parametrize(
    ("pointer", "message", "input_"),
    [
        ("/settings/title", "String should have at least 1 character", "title"),
        ("/timeframe/to", "lies after the slot", "to_date"),
        ("/timeframe", "`to` must be later than `from`", "to_date"),
        ("/", "a one-time job needs `start`", "start_kind"),
        ("/", "`since_last_run` needs runs one at a time: use another `overlap` than `allow_all`", "overlap"),
        ("/settings", "`ends_at` must be later than `start`", "ends_date"),
        ("/labels/No Slug", "String should match pattern '^[a-z]'", "labels"),
        ("/masking/a~1b/c", "no", "fields"),
        ("/elsewhere", "is odd", ""),
        ("/", "is odd", ""),
    ],
)
def test_a_refusal_is_shown_at_the_input_that_can_mend_it(pointer: str, message: str, input_: str) -> None:
    (fault,) = faults_of([{"pointer": pointer, "message": message, "remedy": "Mend it."}])
    assert fault.input == input_
    assert "`" not in fault.sentence
    assert "pattern" not in fault.sentence


def test_several_faults_of_an_input_are_told_together() -> None:
    told = by_input([Fault("/fields", "is odd"), Fault("/masking", "is odder", "Mend it.")])
    assert told == {"fields": "Is odd. Is odder. Mend it."}


# --- choices ------------------------------------------------------------------------------------------------------


def test_what_is_chosen_is_offered_even_when_it_is_there_no_more() -> None:
    form = form_of({
        **STARTED, "media_types": ["fax", "chat"], "fields": ["gone", "mail"], "masking": {"lost": "hash"},
        "recipients": ["f" * 64],
    })  # fmt: skip
    offer = choices.offered(form, SOURCES, [])
    assert [(each.value, each.chosen, each.known) for each in offer.media_types] == [
        ("voice", False, True), ("chat", True, True), ("fax", True, False),
    ]  # fmt: skip
    assert [(each.name, each.exported, each.mask, each.known) for each in offer.columns] == [
        ("id", False, "none", True), ("mail", True, "none", True), ("gone", True, "none", False),
        ("lost", False, "hash", False),
    ]  # fmt: skip
    assert [(each.value, each.known) for each in offer.recipients] == [("f" * 64, False)]
    assert ("lost", "Lost (not there any more)") in choices.offered(form_of({"source": "lost"}), SOURCES, []).sources


def test_another_type_drops_what_it_does_not_know() -> None:
    form = form_of({**STARTED, "media_types": ["chat"], "fields": ["id", "mail"], "masking": {"mail": "hash"}})
    fitted = settings_of(choices.fitted(form.with_values(type="contact"), SOURCES).with_values(title="A"), {}).settings
    assert {"media_types", "masking"}.isdisjoint(fitted)
    assert (fitted["type"], fitted["fields"]) == ("contact", ["id"])
    assert choices.fitted(form.with_values(source="flights"), SOURCES).one("type") == "flight"
    assert choices.fitted(form.with_values(source="nowhere"), SOURCES).one("type") == "interaction"


def test_only_sources_that_allow_it_are_offered_without_encryption() -> None:
    assert not choices.offered(form_of(STARTED), SOURCES, []).allow_plaintext
    assert choices.offered(form_of({"source": "flights", "type": "flight"}), SOURCES, []).allow_plaintext


# --- two people ---------------------------------------------------------------------------------------------------


def test_a_conflict_names_what_differs_and_who_changed_it() -> None:
    before = as_saved({**STARTED, "title": "A"})
    mine = {**before, "title": "Mine", "split_bytes": 1024**2}
    theirs = {**before, "title": "Theirs", "labels": {"team": "b"}}
    found = conflicts.differences(before, mine, theirs)
    assert [(each.name, each.mine, each.theirs, each.changed_by_me) for each in found] == [
        ("title", "Mine", "Theirs", True), ("split_bytes", "1 MiB", "–", True), ("labels", "–", "team: b", False),
    ]  # fmt: skip
    assert conflicts.combined(mine, theirs, ["title"]) == {**theirs, "title": "Mine"}


def test_a_default_that_is_written_out_is_no_difference() -> None:
    written = {**STARTED, "title": "A"}
    assert conflicts.differences(written, written, as_saved(written)) == []


def test_settings_that_are_none_are_compared_as_they_are() -> None:
    assert [each.name for each in conflicts.differences({}, {"title": 1}, {"odd": [1, {}]})] == ["title", "odd"]


# --- backfills ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "period"),
    [
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-01-08T00:00:00Z"},
         ("2026-01-01T00:00:00Z", "2026-01-08T00:00:00Z")),
        ({"from": "2026-01-01T04:00:00+02:00", "to": "2026-01-01T05:30:00.5Z"},
         ("2026-01-01T02:00:00Z", "2026-01-01T05:30:00.500000Z")),
        ({"from": "2026-01-01", "to": "2026-01-08"}, ("2026-01-01T00:00:00Z", "2026-01-08T00:00:00Z")),
    ],
)  # fmt: skip
def test_the_calendar_fills_in_the_period(query: dict[str, str], period: tuple[str, str]) -> None:
    wish = backfills.wish_of(backfills.form_of(query))
    assert (wish.body["from"], wish.body["to"]) == period
    assert (wish.body["reprocess"], wish.body["max_parallel"], wish.faults) == ("missing", 1, ())


def test_a_period_that_cannot_be_read_is_told_at_its_inputs() -> None:
    wish = backfills.wish_of(backfills.form_of({"from": "yesterday", "max_parallel": "many"}))
    assert [fault.input for fault in wish.faults] == ["from_date", "to_date", "max_parallel"]
