"""Exported files: what they are called, how long they stay, and which commands open them."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

MOST_CHOSEN: Final = 100
"""Files to download or delete at a time."""
FEW_DAYS: Final = 3
"""From here on the remaining days of a file are a warning."""


@dataclass(frozen=True, slots=True)
class Command:
    """Something to type, and what it does."""

    does: str
    line: str


@dataclass(frozen=True, slots=True, order=True)
class Chosen:
    """A file that was chosen in the list; nobody but its run can be asked about it."""

    run_id: UUID
    artifact_id: UUID

    @classmethod
    def read(cls, text: str) -> "Chosen":
        """A choice as forms carry it; raises ValueError.

        >>> str(Chosen.read("00000000-0000-0000-0000-000000000001.00000000-0000-0000-0000-000000000002").run_id)[-1]
        '1'
        """
        run, _, artifact = text.partition(".")
        return cls(UUID(run), UUID(artifact))


def shortened(file_name: str) -> str:
    """A file's name with its run's id cut, so that a column can hold it.

    >>> shortened("export-0190b2ab-7c3e-5f6a-8d21-2f4c1a9b7e55-0001-of-0003.zip.p7m")
    'export-0190b2ab…-0001-of-0003.zip.p7m'
    >>> shortened("notes.txt")
    'notes.txt'
    """
    head, _, rest = file_name.partition("-")
    return f"{head}-{rest[:8]}…{rest[36:]}" if len(rest) > 36 and rest[36] == "-" else file_name


def encryption(file_name: str) -> str:
    """How a file is encrypted, in words for people.

    >>> encryption("export-1-0001-of-0001.zip.smime")
    'S/MIME enveloped data'
    """
    if file_name.endswith(".p7m"):
        return "CMS, AES-256-GCM (authenticated)"
    return "S/MIME enveloped data" if file_name.endswith(".smime") else "None"


def reading_commands(file_name: str, sha256: str) -> list[Command]:
    """How a file that was downloaded is proved and opened with stock tools.

    >>> reading_commands("a.zip.p7m", "ab")[1].line
    'openssl cms -decrypt -inform DER -in a.zip.p7m -inkey key.pem -out a.zip && unzip a.zip'
    """
    quoted = shlex.quote(file_name)
    proof = Command("Is it what was exported?", f"echo {shlex.quote(f'{sha256}  {file_name}')} | sha256sum -c")
    for ending, tool in ((".p7m", "cms -decrypt -inform DER"), (".smime", "smime -decrypt -binary")):
        if file_name.endswith(ending):
            inner = shlex.quote(file_name.removesuffix(ending))
            return [
                proof,
                Command(
                    "Decrypt and unzip, with OpenSSL",
                    f"openssl {tool} -in {quoted} -inkey key.pem -out {inner} && unzip {inner}",
                ),
                Command(
                    "The same with cdds, which proves the rows and needs little memory",
                    f"cdds artifacts decrypt {quoted} --key key.pem --into rows",
                ),
            ]
    return [proof, Command("Unzip", f"unzip {quoted}")]


def fetching_commands(url: str, runs: Iterable[str]) -> list[Command]:
    """How whole runs are fetched without a browser; an access token is in the environment then.

    >>> fetching_commands("https://cdds.example", ["a", "b", "a"])[0].line
    'cdds artifacts fetch --url https://cdds.example --into exports --run a'
    """
    return [
        Command(f"Run {run}", f"cdds artifacts fetch --url {shlex.quote(url)} --into exports --run {shlex.quote(run)}")
        for run in dict.fromkeys(runs)
    ]


def gone(artifact: Mapping[str, Any]) -> str | None:
    """Why a file can't be downloaded any more, in a word; None while it can."""
    if artifact["deleted_at"] is None:
        return None
    return "Expired" if artifact["deletion_reason"] == "expired" else "Deleted"
