"""Settings of job_api, read from `CDDS_JOB_API_*`."""

from collections.abc import Iterator
from pathlib import Path

from pydantic_settings import SettingsConfigDict

from shared.config import PublisherSettings
from shared.safety import Fault
from shared.sources import source_faults


class Settings(PublisherSettings):
    """What job_api needs beside the common settings."""

    model_config = SettingsConfigDict(env_prefix="CDDS_JOB_API_", frozen=True, extra="forbid")

    sources: Path
    """The operator's file of sources."""

    def unusable(self) -> Iterator[Fault]:
        """A file of sources that is none, too."""
        yield from super().unusable()
        yield from source_faults("sources", self.sources)
