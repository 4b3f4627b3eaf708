"""Settings of exporter, read from `CDDS_EXPORTER_*`."""

import socket
from datetime import timedelta
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from shared.config import ServiceSettings


class Settings(ServiceSettings):
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
    lease: timedelta = timedelta(seconds=30)
    beat: timedelta = timedelta(seconds=10)
    retention: timedelta = timedelta(days=30)
    worker: str = Field(default_factory=socket.gethostname)
    """How this replica is called in events and logs."""
