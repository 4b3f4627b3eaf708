"""Settings of job_api, read from `CDDS_JOB_API_*`."""

from pathlib import Path

from pydantic_settings import SettingsConfigDict

from shared.config import PublisherSettings


class Settings(PublisherSettings):
    """What job_api needs beside the common settings."""

    model_config = SettingsConfigDict(env_prefix="CDDS_JOB_API_", frozen=True, extra="forbid")

    sources: Path
    """The operator's file of sources."""
