"""Which service a command asks, and as whom: one set of options for every command."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Concatenate, Final, Literal, ParamSpec, TypeAlias

import typer

from cli.client import Client
from cli.console import Exit, Failure

Role: TypeAlias = Literal["viewer", "operator", "admin"]
P = ParamSpec("P")

_PANEL: Final = "Connection"
_Url = Annotated[
    str | None,
    typer.Option(
        "--url", envvar="CDDS_URL", rich_help_panel=_PANEL, help="Address of the service, as https://cdds.example."
    ),
]
_Token = Annotated[
    str | None,
    typer.Option(
        "--token", envvar="CDDS_TOKEN", rich_help_panel=_PANEL, help="Access token; safer in the environment than here."
    ),
]
_Data = Annotated[
    Path,
    typer.Option(
        "--data", rich_help_panel=_PANEL, help="Folder of the local stack, which is asked when there is no --url."
    ),
]
_Tenant = Annotated[str, typer.Option("--tenant", rich_help_panel=_PANEL, help="As whom, at the local stack.")]


@dataclass(frozen=True, slots=True)
class Connection:
    """What the options say."""

    url: str | None
    token: str | None
    data: Path
    tenant: str

    def open(self, role: Role) -> Client:
        """A client, at the local stack with a token of this role. Raises Failure and typer.BadParameter."""
        if self.url is not None:
            if self.token is None:
                raise typer.BadParameter("give --token, or set CDDS_TOKEN, for the service at --url")
            return Client(self.url, self.token)
        from deploy.local.stack import Secrets, running  # brings the whole stack along, which others do without

        stack = running(self.data)
        if stack is None:
            raise Failure("give --url (or set CDDS_URL): no local stack is running here", Exit.UNREACHABLE)
        secrets = Secrets(self.data / "secrets")
        return Client(
            stack["url"], self.token or secrets.token(tenant=self.tenant, role=role, subject=f"cdds@{self.tenant}")
        )


def _connection(
    *, url: _Url = None, token: _Token = None, data: _Data = Path(".cdds"), tenant: _Tenant = "acme"
) -> Connection:
    return Connection(url, token, data, tenant)


_OPTIONS: Final = inspect.signature(_connection).parameters


def connected(command: Callable[Concatenate[Connection, P], None]) -> Callable[..., None]:
    """The command with the options of the connection behind its own; it gets them as its first argument."""

    @functools.wraps(command)
    def run(**given: Any) -> None:
        options = {name: given.pop(name) for name in _OPTIONS}
        command(_connection(**options), **given)  # pyright: ignore[reportCallIssue] - typer gives what it asks for

    _, *own = inspect.signature(command).parameters.values()
    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *_OPTIONS.values())]
    run.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue] - typer reads it
    return run
