"""Settings of exporter, read from `CDDS_EXPORTER_*`."""

import os
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Self, TypeAlias

import obstore
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from obstore.store import from_url
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from shared.config import PublisherSettings
from shared.safety import ENCRYPTED, Danger, Fault, guessable, is_here, is_open
from shared.sources import Sources, SourcesInvalid, source_faults

Retention: TypeAlias = Annotated[timedelta, Field(gt=timedelta(0), le=timedelta(days=400))]
"""At most as long as the events are kept that tell of the parts: history has to be rebuilt while there are any."""

FILES_AT_LEAST: Final = timedelta(hours=1)
_MAKE_KEY: Final = "make one with `openssl genpkey -algorithm ed25519`"


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

    def unusable(self) -> Iterator[Fault]:
        """Files, keys and a store that the exporter can't work with, too."""
        yield from super().unusable()
        yield from source_faults("sources", self.sources)
        yield from _signing_key_faults(self.signing_key)
        yield from _store_faults(self.objects, self.object_options)
        if self.masking_key is not None and guessable(self.masking_key.get_secret_value()):
            yield Fault(
                "masking_key", "is not random: what is behind hashes could be found out", "use `openssl rand -hex 32`"
            )

    def dangers(self) -> Iterator[Danger]:
        """Rows and files that could be read on their way."""
        yield from super().dangers()
        if is_open(self.object_options.get("endpoint", "")) or is_open(self.objects):
            yield Danger("objects", "object_options", "has an endpoint without TLS", "use https for the store")
        for name, source in Sources.load(self.sources).sources.items():
            try:
                dsn = conninfo_to_dict(source.resolve_dsn())
            except (SourcesInvalid, ProgrammingError):
                continue  # its runs fail and say so; the others do not need it
            mode = dsn.get("sslmode") or os.environ.get("PGSSLMODE", "prefer")
            hosts = str(dsn.get("host") or os.environ.get("PGHOST", "")).split(",")
            if mode not in ENCRYPTED and not all(is_here(host) for host in hosts):
                yield Danger(
                    "sources", "sources", f"has the source {name} on another machine, which is read without TLS",
                    f"add sslmode=verify-full to the DSN in {source.dsn.partition(':')[2]}",
                )  # fmt: skip


def _signing_key_faults(path: Path) -> Iterator[Fault]:
    try:
        key: object = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        yield Fault("signing_key", f"{error.strerror}: {path}", "name a file that the service can read")
    except (ValueError, TypeError):
        yield Fault("signing_key", f"{path} is no unencrypted private key", _MAKE_KEY)
    else:
        if not isinstance(key, Ed25519PrivateKey):
            yield Fault("signing_key", f"the key in {path} is not of the kind Ed25519", _MAKE_KEY)


def _store_faults(location: str, options: dict[str, str]) -> Iterator[Fault]:
    if "://" not in location or location.startswith("file://"):
        folder = Path(location.removeprefix("file://")).absolute()
        known = next(path for path in (folder, *folder.parents) if path.exists())
        if not (known.is_dir() and os.access(known, os.W_OK | os.X_OK)):
            yield Fault("objects", f"{known} is no folder that the service can write to", "name another, or mount one")
        return
    try:
        config: Any = options
        from_url(location, config=config)
    except (obstore.exceptions.BaseError, ValueError) as error:
        message = " ".join(str(error).split("\n\n")[0].split())[:200]
        yield Fault("objects", f"OBJECTS and OBJECT_OPTIONS make no object store: {message}", "correct them")
