"""The operator's file of sources: what can be exported, from where, and by which tenants.

`job_api` validates jobs against it; only `exporter` connects. DSNs are references (`env:NAME` or `file:PATH`), so that
the file itself holds no secret.
"""

import os
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.config import secrets_in_files
from shared.jobs import Slug
from shared.safety import Fault

Column = Annotated[str, Field(min_length=1, max_length=63)]
TableName = Annotated[str, Field(pattern=r'^("([^"]|"")+"|[^".]+)\.("([^"]|"")+"|[^".]+)$')]
"""`schema.table`, written as in SQL: quoted where a name has capitals or dots."""


class SourcesInvalid(Exception):
    """The file of sources can't be used."""


class Attachments(BaseModel):
    """The table of files that belong to the rows of a type; they are exported to files of their own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: TableName
    entity_column: Column
    """Holds the id of the row that the attachment belongs to."""
    content_column: Column
    """The bytes (`bytea`); base64 in the export."""
    tenant_column: Column | None = None
    """Needed where ids are unique within a tenant only."""


class DataType(BaseModel):
    """One table or query of a source that can be exported as rows of a data interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(pattern=r"^[A-Za-z0-9]+(-[A-Za-z0-9]+)*$", max_length=60)
    """The noun in file names: `Interaction-<run>-0001.jsonl`."""
    table: TableName | None = None
    query: str | None = Field(default=None, min_length=1)
    """A SELECT instead of a table, without a semicolon; its columns are the fields."""
    id_column: Column
    time_column: Column
    tenant_column: Column | None = None
    media_type_column: Column | None = None
    media_types: tuple[Slug, ...] = ()
    attachments: Attachments | None = None
    ordered: bool = False
    """Whether rows come by time and id; otherwise as the source finds them, which spares it a sort."""
    total: Literal["planner", "count"] = "planner"
    """How the rows are counted beforehand: by the planner's estimate, or exactly, which reads them twice."""
    unknown_types: Literal["fail", "text"] = "fail"
    """What becomes of a column whose type this product does not know: the run fails, or it is exported as text."""

    @model_validator(mode="after")
    def _is_one_relation(self) -> Self:
        if (self.table is None) == (self.query is None):
            raise ValueError("set table or query, and not both")
        return self

    @model_validator(mode="after")
    def _media_types_have_a_column(self) -> Self:
        if bool(self.media_types) != bool(self.media_type_column):
            raise ValueError("set media_types and media_type_column together, or neither")
        return self


class Source(BaseModel):
    """A database that rows are exported from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    dsn: str = Field(pattern=r"^(env|file):.+$")
    settle: timedelta = timedelta(0)
    """Data intervals end this much before the slot, so that late rows are in."""
    allow_plaintext: bool = False
    """Whether jobs may ask for files without encryption."""
    max_parallel: int | None = Field(default=None, ge=1)
    """How many runs may read from it at once, all workers together; left out, as many as there are."""
    statement_timeout: timedelta = timedelta(0)
    """How long one statement may take there; zero is no limit."""
    tenants: tuple[str, ...] | None = None
    """Who may export from it; left out, every type names its tenant column."""
    types: dict[Slug, DataType] = Field(min_length=1)

    @model_validator(mode="after")
    def _belongs_to_someone(self) -> Self:
        for name, data_type in self.types.items():
            if self.tenants is None and data_type.tenant_column is None:
                raise ValueError(f"type {name}: set tenant_column, or the source's tenants")
        return self

    def open_to(self, tenant: str) -> bool:
        """Whether `tenant` may export from this source at all; a tenant column filters rows besides."""
        return self.tenants is None or tenant in self.tenants

    def resolve_dsn(self) -> str:
        """The DSN behind the reference; raises SourcesInvalid when there is none."""
        kind, _, name = self.dsn.partition(":")
        if kind == "file":
            path = Path(name)
            if not path.is_file():
                raise SourcesInvalid(f"the DSN file {name} does not exist")
            return path.read_text(encoding="utf-8").strip()
        if (value := os.environ.get(name) or secrets_in_files().get(name.upper())) is None:
            raise SourcesInvalid(f"the environment variable {name} is not set")
        return value


class Sources(BaseModel):
    """All sources by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: dict[Slug, Source]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read `path` (TOML); raises SourcesInvalid naming the entry."""
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise SourcesInvalid(f"{path}: {error}") from error

    def visible_to(self, tenant: str) -> dict[str, Source]:
        """The sources `tenant` may export from."""
        return {name: source for name, source in self.sources.items() if source.open_to(tenant)}

    def settle(self, source: str) -> timedelta:
        """How long before their slot the data intervals of `source` end; nothing for one the file no longer has."""
        return self.sources[source].settle if source in self.sources else timedelta(0)


def source_faults(setting: str, path: Path) -> Iterator[Fault]:
    """What keeps a file from being one of sources."""
    try:
        Sources.load(path)
    except SourcesInvalid as error:
        yield Fault(setting, " ".join(str(error).split())[:400], "correct the file of sources")
