"""The keys of a local stack; production has an identity provider and secrets of its own."""

import os
from datetime import timedelta
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Final

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from shared import auth
from shared.safety import LOCAL_ISSUER

ISSUER: Final = LOCAL_ISSUER


class Secrets:
    """The keys of a local stack, made once per data folder and readable by its owner only."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.token_key = folder / "token-key.pem"
        self.token_public_key = folder / "token-key.pub.pem"
        self.signing_key = folder / "manifest-key.pem"
        self.masking_key = folder / "masking-key"
        if not self.masking_key.exists():
            write_private(self.masking_key, token_hex(32).encode())
        self.session_key = folder / "session-key"
        if not self.session_key.exists():
            write_private(self.session_key, Fernet.generate_key())
        for path in (self.token_key, self.signing_key):
            if not path.exists():
                write_private(path, private_pem(Ed25519PrivateKey.generate()))
        self.token_public_key.write_bytes(public_pem(private_key(self.token_key)))

    def token(self, *, tenant: str, role: str, subject: str, lifetime: timedelta = timedelta(days=7)) -> str:
        """An access token for the stack's HTTP API."""
        key = private_key(self.token_key)
        return auth.issue(key, ISSUER, subject=subject, tenant=tenant, role=role, lifetime=lifetime)

    def settings(self, service: str) -> dict[str, str]:
        """The settings of a service that are secrets themselves."""
        match service:
            case "exporter":
                return {"CDDS_EXPORTER_MASKING_KEY": self.masking_key.read_text()}
            case "console":
                return {"CDDS_CONSOLE_SESSION_KEYS": self.session_key.read_text()}
            case _:
                return {}


def private_key(path: Path) -> Ed25519PrivateKey:
    """The key in a file; raises OSError, ValueError and TypeError."""
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("it is a key of another kind")
    return key


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """As services read it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: Ed25519PrivateKey) -> bytes:
    """What tokens and manifests are verified with."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def write_private(path: Path, content: bytes) -> None:
    """A new file that only its owner can read."""
    with open(path, "wb", opener=partial(os.open, mode=0o600)) as file:
        file.write(content)
