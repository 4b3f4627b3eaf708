"""What settings may say beyond their form: checked against the operator's sources, the certificates and the clock."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError

from services.job_api.domain.errors import Fault, SettingsMalformed
from shared import slots
from shared.jobs import Cron, Fixed, JobSettings, Once, SinceLastRun
from shared.sources import DataType, Source

_DEPTH: Final = 8
"""Settings are three levels deep; a patch that is deeper than this is wrong anyhow, and is not followed down."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What settings are checked against."""

    now: datetime
    sources: Mapping[str, Source]
    recipients: Collection[str]
    """Fingerprints of the tenant's certificates that are valid now."""


def faults(settings: JobSettings, around: Surroundings, before: JobSettings | None = None) -> list[Fault]:
    """All that is wrong with `settings`; what an edit leaves as it was `before` is not refused because time passed."""
    return [
        *_source_faults(settings, around.sources),
        *_time_faults(settings, around.now, before),
        *_recipient_faults(settings, around.recipients),
    ]


def merged(settings: JobSettings, patch: Mapping[str, Any]) -> JobSettings:
    """`settings` changed by a JSON merge patch (RFC 7396); raises SettingsMalformed."""
    written = _merge(settings.model_dump(mode="json"), patch, _DEPTH)
    try:
        return JobSettings.model_validate(written)
    except ValidationError as error:
        found = [{**item, "loc": ("body", *item["loc"])} for item in error.errors()]
        raise SettingsMalformed(found, written) from error


def _merge(target: Any, patch: Any, depth: int) -> Any:
    if not isinstance(patch, Mapping) or depth == 0:
        return patch
    changed: dict[Any, Any] = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            changed.pop(name, None)
        else:
            changed[name] = _merge(changed.get(name), value, depth - 1)
    return changed


def _source_faults(settings: JobSettings, sources: Mapping[str, Source]) -> Iterator[Fault]:
    source = sources.get(settings.source)
    if source is None:
        known = ", ".join(sorted(sources))
        yield Fault("/source", f"there is no source {settings.source!r}", f"Use one of: {known}.")
        return
    if settings.encryption == "none" and not source.allow_plaintext:
        yield Fault(
            "/encryption", f"{settings.source} is not exported without encryption", 'Use "gcm" or "smime".'
        )  # fmt: skip
    data_type = source.types.get(settings.type)
    if data_type is None:
        known = ", ".join(sorted(source.types))
        yield Fault("/type", f"{settings.source} has no type {settings.type!r}", f"Use one of: {known}.")
        return
    yield from _media_faults(settings, data_type)


def _media_faults(settings: JobSettings, data_type: DataType) -> Iterator[Fault]:
    if settings.media_types == "all":
        return
    if not data_type.media_types:
        yield Fault("/media_types", f"{settings.type} has no media types", 'Leave it out or use "all".')
    elif unknown := sorted(set(settings.media_types) - set(data_type.media_types)):
        known = ", ".join(data_type.media_types)
        yield Fault("/media_types", f"unknown: {', '.join(unknown)}", f"Use some of: {known}.")


def _time_faults(settings: JobSettings, now: datetime, before: JobSettings | None) -> Iterator[Fault]:
    same_times = before is not None and _times(before) == _times(settings)
    first = now if settings.immediately else slots.first_slot(settings, now)
    if isinstance(settings.schedule, Once):
        if first is None:
            yield Fault("/start", "is not later than now", 'Use a later time, or "immediately".')
        if before is not None:
            # Only a submission starts the run of a one-time job.
            yield Fault("/schedule", "a recurring job can't become a one-time job", "Submit a new job.")
    elif not same_times:
        yield from _no_slot_faults(settings, now)
    timeframe = settings.timeframe
    if isinstance(timeframe, Fixed) and first is not None and timeframe.to > first:
        yield Fault("/timeframe/to", "lies after the slot", "Use an end that has passed when the job runs first.")
    if isinstance(timeframe, SinceLastRun) and timeframe.from_ > now:
        yield Fault("/timeframe/from", "lies in the future", "Use a time that has passed.")


def _times(settings: JobSettings) -> tuple[object, ...]:
    return settings.schedule, settings.start, settings.ends_at


def _no_slot_faults(settings: JobSettings, now: datetime) -> Iterator[Fault]:
    if settings.ends_at is not None and settings.ends_at <= now:
        yield Fault("/ends_at", "is in the past", "Use a later time, or leave it out.")
    elif slots.first_slot(settings, now) is not None:
        return
    elif settings.ends_at is not None:
        yield Fault("/ends_at", "leaves the schedule no slot before it", "Use a later time, or leave it out.")
    elif isinstance(settings.schedule, Cron):
        yield Fault("/schedule/expression", "does not come due again", "Use another expression.")


def _recipient_faults(settings: JobSettings, recipients: Collection[str]) -> Iterator[Fault]:
    if unknown := sorted(set(settings.recipients or ()) - set(recipients)):
        yield Fault(
            "/recipients", f"no valid certificate {', '.join(unknown)}", "Use fingerprints of GET /certificates."
        )
