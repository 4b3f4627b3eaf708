"""Environments of services as an operator would write them, outside `cdds up`."""

import json
from collections.abc import Mapping
from pathlib import Path

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

SERVICES = ("job_api", "scheduler", "exporter", "history", "console")
PASSWORD = "correct-horse-battery"
SOURCES = """
[sources.ucs]
title = "UCS"
dsn = "env:CDDS_SOURCE_UCS"
tenants = ["acme"]
types.row = { title = "Row", table = "a.b", id_column = "id", time_column = "at" }
"""


def good(service: str, folder: Path, **changes: str | None) -> dict[str, str]:
    """Settings of `service` that it may start with, whose servers are all on this machine; None takes one away."""
    key = Ed25519PrivateKey.generate()
    private, public, sources = folder / "key.pem", folder / "key.pub.pem", folder / "sources.toml"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    sources.write_text(SOURCES)
    settings: dict[str, str | None] = {
        "http_port": "1", "auth_issuer": "https://id.example", "auth_public_key": str(public),
        **_own(service, private, sources, folder), **changes,
    }  # fmt: skip
    return {variable(service, name): value for name, value in settings.items() if value is not None}


def _own(service: str, private: Path, sources: Path, folder: Path) -> Mapping[str, str]:
    if service == "console":
        nowhere = dict.fromkeys(("job_api", "exporter", "history"), "http://127.0.0.1:1")
        return {**nowhere, "session_keys": Fernet.generate_key().decode()}
    stateful = {"kafka": "127.0.0.1:1", "postgres": f"postgresql://cdds:{PASSWORD}@127.0.0.1:1/cdds"}
    if service == "history":
        return stateful
    if service != "exporter":
        return {**stateful, "sources": str(sources)}
    return {
        **stateful, "sources": str(sources), "signing_key": str(private), "objects": str(folder / "objects"),
        "object_options": json.dumps({"secret_access_key": PASSWORD}),
    }  # fmt: skip


def variable(service: str, name: str) -> str:
    """`CDDS_EXPORTER_LEASE`."""
    return f"CDDS_{service.upper()}_{name.upper()}"
