"""What the service answers, as far as a recipient needs it."""

from collections.abc import Mapping
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from cli.console import Failure
from shared.clock import UtcDatetime


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


_Model = TypeVar("_Model", bound=_Answer)


class Artifact(_Answer):
    """A stored part."""

    artifact_id: UUID
    run_id: UUID
    file_name: str
    stored_at: UtcDatetime
    expires_at: UtcDatetime
    deleted_at: UtcDatetime | None


class Arrived(_Answer):
    """Artifacts that arrived one after the other, and where the list goes on."""

    items: tuple[Artifact, ...]
    next: str


class Listed(_Answer):
    """A run in a list."""

    run_id: UUID


class Execution(_Answer):
    """A run with its parts."""

    run_id: UUID
    job_id: UUID
    title: str | None
    state: str
    manifest_id: UUID | None
    manifest_sha256: str | None
    artifacts: tuple[Artifact, ...]


def understood(model: type[_Model], answer: Mapping[str, Any]) -> _Model:
    """The answer as one of these. Raises Failure."""
    try:
        return model.model_validate(answer)
    except ValidationError as error:
        where = "/".join(map(str, error.errors()[0]["loc"]))
        raise Failure(
            f"the service does not answer like CDDS ({where}): check --url and the version of cdds"
        ) from error
