"""What is told before a job is saved: slots, local times, clock changes, gaps and overlaps; and what was missed."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from services.job_api.domain import missed, preview
from services.job_api.domain.errors import SettingsRefused
from services.job_api.domain.preview import Preview, zone_named
from shared import slots
from shared.clock import utc_text
from tests.job_api.edge import JOBS, problem, written
from tests.job_api.jobs import settings

NOW = datetime(2026, 10, 20, 12, 30, tzinfo=UTC)
BERLIN = zone_named("Europe/Berlin")
HOUR = timedelta(hours=1)


def previewed(zone: str = "UTC", now: datetime = NOW, settle: timedelta = timedelta(0), **changes: Any) -> Preview:
    return preview.preview(settings(**changes), zone_named(zone), now, settle)


def test_the_next_ten_slots_are_shown_with_their_intervals_and_local_times() -> None:
    found = previewed("Europe/Berlin")
    assert len(found.slots) == 10
    first = found.slots[0]
    assert (utc_text(first.at), first.local.isoformat()) == ("2026-10-20T16:00:00Z", "2026-10-20T18:00:00+02:00")
    assert (first.interval_from, first.interval_to) == (first.at - 4 * HOUR, first.at)
    assert [slot.at for slot in found.slots] == list(slots.slots_between(settings(), NOW, NOW + 40 * HOUR))
    assert (found.seams, found.warnings) == ((), ())


def test_the_run_at_submission_is_shown_first() -> None:
    found = previewed(start="immediately")
    assert [slot.trigger for slot in found.slots][:2] == ["immediate", "schedule"]
    assert found.slots[0].at == NOW
    once = previewed(schedule={"kind": "once"}, start="immediately")
    assert [slot.at for slot in once.slots] == [NOW]


def test_data_that_no_run_exports_is_a_gap() -> None:
    found = previewed(timeframe={"kind": "last", "unit": "hour"})
    assert {seam.kind for seam in found.seams} == {"gap"}
    assert len(found.seams) == 9
    seam = found.seams[0]
    assert (seam.begin, seam.end) == (found.slots[0].interval_to, found.slots[1].interval_from)
    assert seam.end - seam.begin == 3 * HOUR
    assert found.warnings == (
        "Data from 2026-10-20T16:00:00Z to 2026-10-20T19:00:00Z is exported by no run, and so on: "
        "9 times in the slots shown.",
    )


def test_data_that_two_runs_export_is_an_overlap() -> None:
    found = previewed(timeframe={"kind": "last", "unit": "hour", "count": 6})
    assert {seam.kind for seam in found.seams} == {"overlap"}
    assert found.seams[0].end - found.seams[0].begin == 2 * HOUR
    assert "is exported twice" in found.warnings[0]


def test_months_of_thirty_days_have_both_gaps_and_overlaps() -> None:
    thirty = {"kind": "last", "unit": "day", "count": 30}
    found = previewed(schedule={"kind": "monthly", "day": 1, "at": "00:00"}, timeframe=thirty)
    assert {seam.kind for seam in found.seams} == {"gap", "overlap"}
    assert len(found.warnings) == 2


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"timeframe": {"kind": "all"}}, "everything up to its slot"),
        ({"timeframe": {"kind": "since_last_run", "from": "2026-01-01T00:00:00Z"}}, "continues where"),
        ({"timeframe": {"kind": "fixed", "from": "2026-01-01T00:00Z", "to": "2026-02-01T00:00Z"}}, "same interval"),
        ({"jitter": "PT5M"}, "up to 5 min after"),
        ({"jitter": "PT90S"}, "up to 1 min 30 s after"),
        ({"ends_at": "2026-10-21T00:00:00Z"}, "ends after 2 slots"),
    ],
)
def test_what_to_know_is_said_in_words(changes: dict[str, Any], word: str) -> None:
    assert any(word in warning for warning in previewed(**changes).warnings)


def test_since_last_run_is_shown_as_if_every_run_succeeds() -> None:
    found = previewed(timeframe={"kind": "since_last_run", "from": "2026-10-01T00:00:00Z"}, settle=HOUR)
    assert found.slots[0].interval_from == datetime(2026, 10, 1, tzinfo=UTC)
    assert all(one.interval_to == other.interval_from for one, other in zip(found.slots, found.slots[1:], strict=False))
    assert found.slots[0].interval_to == found.slots[0].at - HOUR


# --- clocks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "now", "at", "words"),
    [
        ("Europe/Berlin", NOW, "2026-10-25T01:00:00Z", "1 h earlier"),
        ("Europe/Berlin", NOW + timedelta(days=30), "2027-03-28T01:00:00Z", "1 h later"),
        ("America/New_York", NOW, "2026-11-01T06:00:00Z", "1 h earlier"),
        ("Australia/Lord_Howe", NOW, "2027-04-03T15:00:00Z", "30 min earlier"),
        ("Europe/Berlin", datetime(2026, 10, 25, 0, 59, 59, 999999, tzinfo=UTC), "2026-10-25T01:00:00Z", "1 h earlier"),
        ("Europe/Berlin", datetime(2026, 10, 25, 1, tzinfo=UTC), "2027-03-28T01:00:00Z", "1 h later"),
    ],
    ids=["autumn", "spring", "New York", "half an hour", "just before", "just then"],
)
def test_the_next_change_of_the_clocks_is_told_to_the_minute(zone: str, now: datetime, at: str, words: str) -> None:
    change = previewed(zone, now).clock_change
    assert change
    assert utc_text(change.at) == at
    assert words in change.message


def test_what_a_change_does_to_a_slot_is_told_by_its_local_times() -> None:
    change = previewed("Europe/Berlin", schedule={"kind": "daily", "at": "06:00"}).clock_change
    assert change
    assert (change.offset_before, change.offset_after) == (2 * HOUR, HOUR)
    assert "the slot of 06:00 UTC is at 08:00 there before, and at 07:00 after" in change.message


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "Asia/Kolkata", "Etc/GMT+5"])
def test_a_zone_that_keeps_its_offset_has_no_change(zone: str) -> None:
    assert previewed(zone).clock_change is None


@pytest.mark.parametrize("name", ["Europe", "Europe/Bonn", "../../etc/passwd", "/etc/passwd", "", ".", "a" * 64])
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(SettingsRefused, match="/zone"):
        zone_named(name)


# --- missed slots -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expression", ["* * * * *", "0 0 1 1 *", "0 0 29 2 *"])
@pytest.mark.parametrize("days", [0, 1, 400, 1600])
def test_the_latest_missed_slot_is_the_last_one_counted_forwards(expression: str, days: int) -> None:
    job = settings(schedule={"kind": "cron", "expression": expression}, timeframe={"kind": "all"})
    since = NOW - timedelta(days=days)
    if expression.startswith("*"):
        since = max(since, NOW - timedelta(days=3))
    counted = list(slots.slots_between(job, since, NOW))
    assert list(missed.latest(job, since, NOW)) == counted[-1:]


# --- over HTTP ----------------------------------------------------------------------------------------------------


async def test_a_preview_needs_no_certificate_but_says_so(http: httpx.AsyncClient) -> None:
    body = {"settings": written(timeframe={"kind": "last", "unit": "hour"}), "zone": "Europe/Berlin"}
    answer = await http.post(f"{JOBS}/preview", json=body)
    assert answer.status_code == 200, answer.text
    shown = answer.json()
    assert (shown["zone"], shown["certificate_required"], len(shown["slots"])) == ("Europe/Berlin", True, 10)
    first = shown["slots"][0]
    assert datetime.fromisoformat(first["local"]) == datetime.fromisoformat(first["at"])
    assert first["interval"]["to"] == first["at"]
    assert set(shown["gaps"][0]) == {"kind", "from", "to", "after_slot", "before_slot"}
    assert shown["daylight_saving"]["offset_before"] in ("+01:00", "+02:00")
    assert (await http.get(JOBS)).json()["items"] == []


@pytest.mark.usefixtures("certified")
async def test_a_preview_with_a_certificate_at_hand_requires_none(http: httpx.AsyncClient) -> None:
    shown = (await http.post(f"{JOBS}/preview", json={"settings": written()})).json()
    assert (shown["certificate_required"], shown["zone"], shown["daylight_saving"]) == (False, "UTC", None)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"settings": written(source="nowhere")}, "/settings/source"),
        ({"settings": written(title=None)}, "/settings/title"),
        ({"settings": written(ends_at="2026-01-01T00:00:00Z")}, "/settings/ends_at"),
        ({"settings": written(), "zone": "Europe"}, "/zone"),
        ({"settings": written(), "zone": "\0"}, "/zone"),
        ({"settings": written(), "clock": "UTC"}, "/clock"),
        ({}, "/settings"),
    ],
)
async def test_a_preview_is_refused_for_what_a_submission_is(
    http: httpx.AsyncClient, body: dict[str, Any], pointer: str
) -> None:
    refused = problem(await http.post(f"{JOBS}/preview", json=body), 422, "invalid")
    assert pointer in [error["pointer"] for error in refused["errors"]]
