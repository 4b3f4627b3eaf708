"""The environment of templates: how things are shown, the console's words, and where its files are."""

from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from services.console.domain import files, runs, schedules, shown, timeline, validity, words

STATIC: Final = Path(__file__).parent.parent / "static"


class Files(StaticFiles):
    """Files that browsers keep for as long as their address names this content."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file, or why there is none."""
        response = await super().get_response(path, scope)
        if response.status_code == 200 and scope["query_string"].startswith(b"v="):
            response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


def environment() -> Environment:
    """What templates are read and filled with; whatever they name must be there."""
    made = Environment(
        loader=PackageLoader("services.console"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    filters: Any = made.filters  # jinja2 infers their type from its own
    filters.update({
        "utc": shown.utc, "local": shown.local, "size": shown.size, "number": shown.number,
        "duration": shown.duration, "remaining": shown.remaining,
        "named": _named, "source_options": words.source_options, "type_options": words.type_options,
        "file_name": files.shortened, "gone": files.gone, "fingerprint": validity.grouped,
        "remedied_at": words.remedied_at,
        "first_file": runs.first_file, "moment_field": runs.field, "told": timeline.told,
        "event_kind": timeline.kind, "interval": timeline.interval, "as_json": shown.as_json,
        "sentence": shown.sentence, "zulu": shown.zulu, "next_day": shown.next_day,
        "schedule": schedules.described, "timeframe": schedules.timeframe,
    })  # fmt: skip
    names: Any = made.globals
    names.update({
        "STATES": words.STATES, "TRIGGERS": words.TRIGGERS, "OUTCOMES": words.OUTCOMES,
        "SUSPENDED": words.SUSPENDED, "static": _static_address,
        "FEW_DAYS": files.FEW_DAYS,
        "STATE_OPTIONS": runs.STATE_OPTIONS, "OPEN_STATES": runs.OPEN,
    })  # fmt: skip
    return made


@pass_context
def _named(context: Context, slug: str) -> str:
    """The name of a source, as its operator gave it, or of a type."""
    return context.get("titles", {}).get(slug) or words.title(slug)


_VERSIONS: Final = {
    path.relative_to(STATIC).as_posix(): sha256(path.read_bytes()).hexdigest()[:12]
    for path in STATIC.rglob("*")
    if path.is_file()
}


def _static_address(name: str) -> str:
    """The address of a file that browsers may keep for ever: another content has another address."""
    return f"/static/{name}?v={_VERSIONS[name]}"
