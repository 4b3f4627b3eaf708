"""What is wrong with settings that can be read: what they name can't be used, or they are safe on one machine only.

Each class of settings tells its own (`unusable`, `unsafe`), with what is here; `shared.starting` refuses to start by
it, and `cdds doctor` shows it.
"""

import ipaddress
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

LOCAL_ISSUER: Final = "cdds-local"
"""Whose tokens the stack of `cdds up` believes."""

Risk: TypeAlias = Literal["issuer", "identity", "postgres", "passwords", "kafka", "objects", "sources", "browser"]
"""What `INSECURE` can name: the risks that are taken, because the network around is trusted."""

ENCRYPTED: Final = ("require", "verify-ca", "verify-full")
"""The values of sslmode with which nobody can listen; only the last also makes sure of whom we speak to."""
_KNOWN_PASSWORDS: Final = frozenset(
    {"postgres", "password", "cdds", "changeme", "change-me", "secret", "admin", "test"}
)
_PLACEHOLDER: Final = re.compile(r"change.?me|example|password|placeholder|0123456789", re.IGNORECASE)
_DISTINCT: Final = 8
"""A random key of 32 has as few different characters or bytes once in 10^7 if hexadecimal, else practically never."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A setting that can't be used; names of settings in capitals become those of environment variables."""

    setting: str
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Danger:
    """A setting that is fine on one's own machine, and elsewhere only when `INSECURE` names the risk."""

    risk: Risk
    setting: str
    message: str
    remedy: str


def is_here(host: str | None) -> bool:
    """Whether nobody can listen between us and `host`: this machine, or a socket in its file system."""
    if not host or host.startswith("/") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_open(url: str) -> bool:
    """Whether what is fetched there can be read and changed on its way."""
    return urlsplit(url).scheme == "http" and not is_here(urlsplit(url).hostname)


def host_of(address: str) -> str:
    """The host of `host:port`, which may lack the port and have an IPv6 address in brackets."""
    address = address.strip()
    return address.partition("]")[0].lstrip("[") if address.startswith("[") else address.partition(":")[0]


def dsn_faults(setting: str, dsn: str) -> Iterator[Fault]:
    """What keeps a DSN from being one; says nothing of what it holds."""
    form = "write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with special characters percent-encoded"
    try:
        parts = urlsplit(dsn)
        valid = parts.scheme in ("postgres", "postgresql") and (parts.port is None or parts.port > 0)
    except ValueError:
        # Several hosts with ports make no port that is a number.
        valid = re.match(r"postgres(ql)?://[^/?]*,", dsn) is not None
    if not valid:
        yield Fault(setting, "is no DSN of PostgreSQL", form)


def dsn_dangers(setting: str, dsn: str) -> Iterator[Danger]:
    """What makes a DSN unfit for a database on another machine."""
    authority, _, query = dsn.partition("://")[2].partition("?")
    login, _, addresses = authority.partition("/")[0].rpartition("@")
    said = parse_qs(query)
    hosts = [host_of(address) for address in addresses.split(",") if address]
    if not hosts:
        hosts = (said.get("host") or [os.environ.get("PGHOST", "")])[-1].split(",")
    if all(is_here(host) for host in hosts):
        return
    mode = (said.get("sslmode") or [os.environ.get("PGSSLMODE", "prefer")])[-1]
    if mode not in ENCRYPTED:
        yield Danger(
            "postgres", setting, f"lets PostgreSQL on another machine be spoken to without TLS (sslmode={mode})",
            "add sslmode=verify-full and sslrootcert=FILE to the DSN",
        )  # fmt: skip
    user, _, password = (unquote(part) for part in login.partition(":"))
    password = password or (said.get("password") or [""])[-1]
    if password and (password.lower() in _KNOWN_PASSWORDS or password == user):
        yield Danger(
            "passwords", setting, "has a password that everybody tries first",
            "give the role one of `openssl rand -hex 24`",
        )  # fmt: skip


def public_key_faults(setting: str, path: Path) -> Iterator[Fault]:
    """What keeps a file from being a key that tokens are verified with."""
    remedy = "put the public key that tokens are signed for there, as PEM"
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        yield Fault(setting, f"{error.strerror}: {path}", "name a file that the service can read")
    except ValueError:
        yield Fault(setting, f"{path} is no public key", remedy)
    else:
        if isinstance(key, RSAPublicKey) and key.key_size < 2048:
            yield Fault(setting, f"the key in {path} has {key.key_size} bits", "use RSA with at least 2048, or Ed25519")


def guessable(secret: str | bytes) -> bool:
    """Whether a key that should be random was plainly typed in, or copied from an example."""
    return len(set(secret)) < _DISTINCT or (isinstance(secret, str) and _PLACEHOLDER.search(secret) is not None)
