"""Settings of console, read from `CDDS_CONSOLE_*`."""

from pydantic_settings import SettingsConfigDict

from shared.config import ProcessSettings


class Settings(ProcessSettings):
    """Where the services are that own the parts of the API."""

    model_config = SettingsConfigDict(env_prefix="CDDS_CONSOLE_", frozen=True, extra="forbid")

    job_api: str
    """Base URL, as `http://job-api:8000`."""
    exporter: str
    history: str
