"""Settings of exporter, read from `CDDS_EXPORTER_*`."""

import socket
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Self, TypeAlias

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from shared.config import PublisherSettings

Retention: TypeAlias = Annotated[timedelta, Field(gt=timedelta(0), le=timedelta(days=400))]
"""At most as long as the events are kept that tell of the parts: history has to be rebuilt while there are any."""

FILES_AT_LEAST: Final = timedelta(hours=1)


class Settings(PublisherSettings):
    """What exporter needs beside the common settings."""

    model_config = SettingsConfigDict(env_prefix="CDDS_EXPORTER_", frozen=True, extra="forbid")

    sources: Path
    """The operator's file of sources; this service resolves its DSN references."""
    objects: str
    """Where artifacts are kept: a folder, or a URL such as `s3://bucket/prefix`."""
    object_options: dict[str, str] = Field(default_factory=dict)
    signing_key: Path
    """Ed25519 private key (PEM) of this installation; it signs manifests."""
    masking_key: SecretStr | None = Field(default=None, min_length=32)
    """The secret of this installation that hashes of masked fields are made with. Who knows it can find out by trying
    which value is behind a hash; who changes it gets other hashes from then on. Runs that hash fail without it."""
    concurrent_runs: int = Field(default=2, ge=1, le=64)
    """How many runs one process works on at once; with two or more, one of them is never a backfill."""
    lease: timedelta = Field(default=timedelta(seconds=30), gt=timedelta(0))
    """After so long without a beat a run is somebody else's."""
    beat: timedelta = Field(default=timedelta(seconds=10), gt=timedelta(0))
    grace: timedelta = Field(default=timedelta(seconds=20), ge=timedelta(0))
    """How long the runs in hand may go on when the process is told to stop; what is not finished then goes back to the
    queue, which takes a few seconds more. Keep it well below what your supervisor grants: 30 s in Kubernetes, 10 s in
    Docker, unless you say otherwise there."""
    retention: Retention = timedelta(days=30)
    """How long parts can be downloaded from when their run succeeds; a change counts for later runs."""
    retention_by_tenant: dict[str, Retention] = Field(default_factory=dict)
    """Where tenants have a time of their own, such as `{"acme": "P90D"}`."""
    sweep: timedelta = Field(default=timedelta(hours=1), ge=timedelta(minutes=1))
    """How often the object store is looked through for bytes that belong to nobody."""
    worker: str = Field(default_factory=socket.gethostname)
    """How this replica is called in events and logs."""

    @model_validator(mode="after")
    def _beats_in_time(self) -> Self:
        if self.beat * 3 > self.lease:
            raise ValueError("set BEAT to at most a third of LEASE, so that a late beat loses no run")
        return self

    @model_validator(mode="after")
    def _tells_of_its_files(self) -> Self:
        retentions = (self.retention, *self.retention_by_tenant.values())
        if not self.short_retentions and min(retentions) < FILES_AT_LEAST:
            raise ValueError("set RETENTION to an hour or more, such as PT1H, or nobody can fetch what was exported")
        if max(retentions) > self.event_retention:
            raise ValueError("set EVENT_RETENTION to at least RETENTION: events tell history of the files there are")
        return self
