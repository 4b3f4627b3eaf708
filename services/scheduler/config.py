"""Settings of scheduler, read from `CDDS_SCHEDULER_*`."""

from pathlib import Path

from pydantic_settings import SettingsConfigDict

from shared.config import PublisherSettings


class Settings(PublisherSettings):
    """What scheduler needs beside the common settings."""

    model_config = SettingsConfigDict(env_prefix="CDDS_SCHEDULER_", frozen=True, extra="forbid")

    sources: Path
    """The operator's file of sources."""
