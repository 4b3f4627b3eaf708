"""Settings of history, read from `CDDS_HISTORY_*`."""

from datetime import timedelta

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared.config import ServiceSettings


class Settings(ServiceSettings):
    """The common settings, and how long things are remembered."""

    model_config = SettingsConfigDict(env_prefix="CDDS_HISTORY_", frozen=True, extra="forbid")

    retention: timedelta = timedelta(days=400)
    """Months that are wholly older are dropped; outboxes keep events no longer, so a rebuild would lose them, too."""
    stream_readers: int = Field(default=2000, ge=1)
    """How many readers of the event stream this process takes."""
