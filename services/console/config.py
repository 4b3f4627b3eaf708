"""Settings of console, read from `CDDS_CONSOLE_*`."""

from base64 import urlsafe_b64decode
from collections.abc import Iterator
from typing import Annotated, Final, Self

from cryptography.fernet import Fernet
from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from shared.config import AuthSettings
from shared.safety import Danger, Fault, guessable, is_here, is_open


def _are_keys(keys: SecretStr) -> SecretStr:
    try:
        for key in keys.get_secret_value().split(","):
            Fernet(key)
    except ValueError as error:
        raise ValueError("must be Fernet keys, 32 bytes in URL-safe base64, comma-separated") from error
    return keys


_MAKE_KEY: Final = (
    "make keys with `python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'`"
)


class Settings(AuthSettings):
    """Where the services are that own the parts of the API, and what a browser's session is kept with."""

    model_config = SettingsConfigDict(env_prefix="CDDS_CONSOLE_", frozen=True, extra="forbid")

    job_api: str
    """Base URL, as `http://job-api:8000`."""
    exporter: str
    history: str
    session_keys: Annotated[SecretStr, AfterValidator(_are_keys)]
    """Fernet keys, comma-separated: the first seals sessions, all open them, so that keys can be changed in passing."""
    public_url: str | None = Field(default=None, pattern=r"^https?://[^/]+$")
    """The address that browsers use, where a proxy changes it; cookies are for https only when this is https."""
    client_id: str | None = None
    """The console's name at the identity provider, whose issuer is `AUTH_ISSUER`; without one, people sign in with
    access tokens."""
    client_secret: SecretStr | None = None
    scope: str = "openid offline_access cdds.read cdds.operate cdds.administer"
    """What is asked for; the provider decides what who gets."""
    authorize_parameters: dict[str, str] = Field(default_factory=dict[str, str])
    """More parameters of the authorization request, as `{"resource": "urn:cdds"}`."""

    @model_validator(mode="after")
    def _can_sign_in(self) -> Self:
        if self.client_id is not None and (self.client_secret is None or self.public_url is None):
            raise ValueError("CLIENT_ID needs CLIENT_SECRET and PUBLIC_URL, where the provider sends browsers back to")
        return self

    def unusable(self) -> Iterator[Fault]:
        """A session key that was typed in, too."""
        yield from super().unusable()
        keys = self.session_keys.get_secret_value().split(",")
        if any(guessable(urlsafe_b64decode(key)) for key in keys):
            yield Fault("session_keys", "has a key that is not random: sessions could be forged", _MAKE_KEY)

    def dangers(self) -> Iterator[Danger]:
        """Sessions that could be read on their way."""
        yield from super().dangers()
        if self.public_url is None and not is_here(self.http_host):
            yield Danger(
                "browser", "public_url", "is not set although HTTP_HOST lets other machines in: cookies go without TLS",
                "set it to the https address of the proxy in front",
            )  # fmt: skip
        if self.public_url is not None and is_open(self.public_url):
            yield Danger(
                "browser", "public_url", "is http: sessions can be read on their way", "put TLS in front and use https"
            )
        if self.client_id is not None and is_open(self.auth_issuer):
            yield Danger("identity", "auth_issuer", "is asked without TLS who signs in", "use https")
