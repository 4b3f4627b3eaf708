"""Settings of history, read from `CDDS_HISTORY_*`."""

from pydantic_settings import SettingsConfigDict

from shared.config import ServiceSettings


class Settings(ServiceSettings):
    """History needs the common settings only."""

    model_config = SettingsConfigDict(env_prefix="CDDS_HISTORY_", frozen=True, extra="forbid")
