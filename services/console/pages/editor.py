"""The job editor: new jobs, clones, edits; what the schedule means while it is typed; two edits that met."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, Final
from uuid import UUID, uuid4, uuid5

import orjson
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from services.console.domain.forms import choices, conflicts
from services.console.domain.forms.faults import Fault, by_input, faults_of
from services.console.domain.forms.form import Form
from services.console.domain.forms.settings import FRESH, Reading, form_of, settings_of
from services.console.gateway import Away, Refused
from services.console.pages.failures import failure
from services.console.pages.page import Signed, Visitor, render, sources_of

REASONS: Final = {
    "once": "A one-time job can’t be edited once it was submitted. Clone it: everything may be changed in the clone.",
    "role": "Only administrators can change jobs.",
}
_PLACEHOLDER: Final = "Untitled"
"""Nobody has to think of a title before they see when the job would run."""
_ESTIMATED: Final = (
    "source", "type", "media_types", "schedule", "start", "ends_at", "timeframe", "split_bytes", "format",
    "csv_profile", "fields", "masking", "attachments",
)  # fmt: skip
"""What the size of an export depends on."""


async def _sent(request: Request) -> Form:
    sent = await request.form(max_fields=10_000)
    return Form.sent((name, value) for name, value in sent.multi_items() if isinstance(value, str))


Sent = Annotated[Form, Depends(_sent)]


@dataclass(frozen=True, slots=True)
class Editor:
    """What one editor is about: a new job, or one that is there."""

    job: Mapping[str, Any] | None
    before: Mapping[str, Any]
    """The settings that its form was made of."""
    version: int | None = None

    @property
    def locked(self) -> str | None:
        """Why nothing can be changed in it, if so."""
        once = self.job is not None and self.job["settings"]["schedule"]["kind"] == "once"
        return REASONS["once"] if once else None


def router() -> APIRouter:
    """The routes."""
    pages = APIRouter(prefix="/jobs")

    @pages.get("/new")
    async def new(request: Request, visitor: Signed, clone: UUID | None = None, run: UUID | None = None) -> Response:
        """An empty editor, or one with the settings of a job, or of a run as they were then."""
        if not visitor.may_administer:
            return failure(request, 403, REASONS["role"])
        before: dict[str, Any] = {}
        if clone is not None:
            before = (await visitor.send("POST", f"/jobs/{clone}/clone"))["settings"]
        elif run is not None:
            settings = (await visitor.get(f"/executions/{run}"))["settings"]
            if settings is None:
                return failure(request, 404, "The settings that this run had are not known any more.")
            before = {**settings, "key": None}
        sources = await sources_of(visitor)
        form = form_of(before or {**FRESH, **choices.first(sources)})
        return await _shown(request, visitor, Editor(None, before), form, sources=sources)

    @pages.post("/new")
    async def submit(request: Request, visitor: Signed, form: Sent) -> Response:
        editor = Editor(None, _before(form))
        if form.one("then") == "choices":
            return await _other_choices(request, visitor, editor, form)
        read = settings_of(form, editor.before)
        if read.faults:
            return await _shown(request, visitor, editor, form, faults=read.faults)
        try:
            # The same job sent twice from one page, by an impatient click, is one job.
            key = uuid5(_uuid(form.one("once")), _json(read.settings))
            job = await visitor.send("POST", "/jobs", read.settings, key=str(key))
        except Refused as error:
            return await _refused(request, visitor, editor, form, read, error)
        return RedirectResponse(f"/jobs?saved={job['id']}", 303)

    @pages.post("/preview")
    async def preview(request: Request, visitor: Signed, form: Sent) -> Response:
        """When the job would run and what each run would export, as far as the form says it already."""
        read = settings_of(form.with_values(title=form.one("title") or _PLACEHOLDER), _before(form))
        return await _previewed(request, visitor, read)

    @pages.get("/{job_id:uuid}/preview")
    async def preview_saved(request: Request, visitor: Signed, job_id: UUID) -> Response:
        job = await visitor.get(f"/jobs/{job_id}")
        return await _previewed(request, visitor, Reading(job["settings"], ()), estimated=False)

    @pages.post("/estimate")
    async def estimate(request: Request, visitor: Signed, form: Sent) -> Response:
        """How much the next run would export; it may take a while, so nothing waits for it."""
        read = settings_of(form.with_values(title=form.one("title") or _PLACEHOLDER), _before(form))
        found, why = None, "The form has to be complete first."
        if not read.faults:
            try:
                found = await visitor.send("POST", "/estimates", read.settings)
            except Refused as error:
                why = str(error)
            except Away:
                why = "Estimates are not available at the moment."
        return render(request, "jobs/editor/estimate.html", visitor, estimate=found, why=why)

    @pages.post("/choices")
    async def choose(request: Request, visitor: Signed, form: Sent) -> Response:
        """The inputs that depend on the source and its type."""
        sources = await sources_of(visitor)
        context = await _context(visitor, choices.fitted(form, sources), sources)
        response = render(request, "jobs/editor/choices.html", visitor, **context)
        response.headers["HX-Trigger-After-Swap"] = "choices-changed"
        return response

    @pages.get("/{job_id:uuid}/edit")
    async def edit(request: Request, visitor: Signed, job_id: UUID) -> Response:
        job = await visitor.get(f"/jobs/{job_id}")
        editor = Editor(job, job["settings"], job["version"])
        return await _shown(request, visitor, editor, form_of(job["settings"]))

    @pages.post("/{job_id:uuid}/edit")
    async def save(request: Request, visitor: Signed, job_id: UUID, form: Sent) -> Response:
        editor = Editor(await visitor.get(f"/jobs/{job_id}"), _before(form), _version(form))
        if form.one("then") == "choices":
            return await _other_choices(request, visitor, editor, form)
        read = settings_of(form, editor.before)
        if read.faults:
            return await _shown(request, visitor, editor, form, faults=read.faults)
        return await _saved(request, visitor, editor, form, read)

    @pages.post("/{job_id:uuid}/merge")
    async def merge(request: Request, visitor: Signed, job_id: UUID, form: Sent) -> Response:
        """Save what was chosen of two edits, or go on editing with it."""
        mine, theirs = _settings(form, "mine"), _before(form)
        keep = [name for name in mine if form.one(f"keep_{name}") == "mine"]
        settings = conflicts.combined(mine, theirs, keep)
        editor = Editor(await visitor.get(f"/jobs/{job_id}"), theirs, _version(form))
        if form.one("then") == "edit":
            return await _shown(request, visitor, editor, form_of(settings), changed=True)
        return await _saved(request, visitor, editor, form_of(settings), Reading(settings, ()))

    return pages


async def _other_choices(request: Request, visitor: Visitor, editor: Editor, form: Form) -> Response:
    """What `choose` does, for browsers without scripts."""
    sources = await sources_of(visitor)
    return await _shown(request, visitor, editor, choices.fitted(form, sources), sources=sources, changed=True)


async def _saved(request: Request, visitor: Visitor, editor: Editor, form: Form, read: Reading) -> Response:
    """Put settings in the place of those of the version that the editor began with."""
    assert editor.job is not None
    job_id = editor.job["id"]
    try:
        await visitor.send("PUT", f"/jobs/{job_id}", read.settings, version=editor.version)
    except Refused as error:
        if error.slug != "version-mismatch":
            return await _refused(request, visitor, editor, form, read, error)
        job = await visitor.get(f"/jobs/{job_id}")
        found = conflicts.differences(editor.before, read.settings, job["settings"])
        return render(
            request, "jobs/editor/conflict.html", visitor, status=412, job=job, differences=found,
            mine=_json(read.settings), before=_json(job["settings"]),
        )  # fmt: skip
    return RedirectResponse(f"/jobs?saved={job_id}", 303)


async def _refused(
    request: Request, visitor: Visitor, editor: Editor, form: Form, read: Reading, error: Refused
) -> Response:
    """The editor again, with everything that was typed, and what the service says about it."""
    if error.status not in (409, 422):
        raise error
    faults = _faults(read, error) or [Fault("/", str(error))]
    return await _shown(
        request, visitor, editor, form, faults=faults, status=error.status,
        certificate_required=error.slug == "certificate-required",
    )  # fmt: skip


def _faults(read: Reading, error: Refused) -> list[Fault]:
    return faults_of(error.errors, since_last_run=read.settings["timeframe"].get("kind") == "since_last_run")


async def _previewed(request: Request, visitor: Visitor, read: Reading, *, estimated: bool = True) -> Response:
    found, faults = None, list(read.faults)
    if not faults:
        try:
            body = {"settings": read.settings, "zone": visitor.zone.key}
            found = await visitor.send("POST", "/jobs/preview", body)
        except Refused as error:
            if error.status != 422:
                raise
            faults = _faults(read, error)
    asked = {name: read.settings.get(name) for name in _ESTIMATED}
    return render(
        request, "jobs/editor/preview.html", visitor, preview=found, faults=faults, settings=read.settings,
        question=sha256(orjson.dumps(asked)).hexdigest()[:16] if estimated else None,
    )  # fmt: skip


async def _shown(
    request: Request, visitor: Visitor, editor: Editor, form: Form, *, sources: list[dict[str, Any]] | None = None,
    faults: list[Fault] | tuple[Fault, ...] = (), status: int = 422, certificate_required: bool = False,
    changed: bool = False,
) -> Response:  # fmt: skip
    locked = editor.locked or (None if visitor.may_administer else REASONS["role"])
    return render(
        request, "jobs/edit.html", visitor, status=status if faults else 200, editor=editor, locked=locked,
        faults=faults, certificate_required=certificate_required, changed=changed or bool(faults),
        before=_json(editor.before), once=form.one("once") or str(uuid4()),
        **await _context(visitor, form, sources, by_input(faults)),
    )  # fmt: skip


async def _context(
    visitor: Visitor, form: Form, sources: list[dict[str, Any]] | None = None, errors: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What the inputs are made with."""
    known, certificates = await asyncio.gather(
        sources_of(visitor) if sources is None else asyncio.sleep(0, sources), _certificates(visitor)
    )
    return {
        "form": form, "errors": errors or {}, "sources": known, "certificates": certificates,
        "offer": choices.offered(form, known, certificates or []), "days_of_month": choices.DAYS_OF_MONTH,
    }  # fmt: skip


async def _certificates(visitor: Visitor) -> list[dict[str, Any]] | None:
    try:
        return list((await visitor.get("/certificates"))["items"])
    except Away:
        return None


def _before(form: Form) -> dict[str, Any]:
    return _settings(form, "before")


def _settings(form: Form, name: str) -> dict[str, Any]:
    """Settings that a page of ours carries along; raises HTTPException for what is none of them."""
    try:
        found: Any = orjson.loads(form.text(name) or "{}")
        form_of(found)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise HTTPException(400, f"What the form carries as {name} are not the settings of a job.") from error
    return dict(found)


def _version(form: Form) -> int:
    text = form.one("version")
    if not text.isdecimal() or len(text) > 9:
        raise HTTPException(400, "The form does not say which version of the job it changes.")
    return int(text)


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        return uuid4()


def _json(settings: Mapping[str, Any]) -> str:
    return orjson.dumps(settings).decode()
