"""What is said about exported files, and the commands that open them."""

import shlex

import pytest

from services.console.domain import files
from services.console.domain.files import Chosen

RUN = "0190b2ab-7c3e-5f6a-8d21-2f4c1a9b7e55"
THEN = "2026-03-01T00:00:00Z"
ARTIFACT = "0190b2ab-0000-5f6a-8d21-2f4c1a9b7e55"


@pytest.mark.parametrize(
    ("name", "tool", "inner", "encryption"),
    [
        (f"export-{RUN}-0001-of-0003.zip.p7m", "openssl cms -decrypt -inform DER", ".zip", "CMS, AES-256-GCM"),
        (f"export-{RUN}-0001-of-0003.zip.smime", "openssl smime -decrypt -binary", ".zip", "S/MIME"),
    ],
)
def test_a_sealed_file_is_opened_by_the_tool_of_its_form(name: str, tool: str, inner: str, encryption: str) -> None:
    commands = [command.line for command in files.reading_commands(name, "ab" * 32)]
    assert commands[0] == f"echo '{'ab' * 32}  {name}' | sha256sum -c"
    assert commands[1].startswith(f"{tool} -in {name} -inkey key.pem -out ")
    assert commands[1].endswith(f"&& unzip export-{RUN}-0001-of-0003{inner}")
    assert commands[2] == f"cdds artifacts decrypt {name} --key key.pem --into rows"
    assert files.encryption(name).startswith(encryption)


def test_a_plain_file_is_only_unzipped() -> None:
    assert [command.line for command in files.reading_commands("a.zip", "ab")][1:] == ["unzip a.zip"]
    assert files.encryption("a.zip") == "None"


def test_names_reach_no_shell_as_anything_but_names() -> None:
    name = "a b;rm -rf ~'\"$(x).zip.p7m"
    for command in files.reading_commands(name, "ab")[1:]:
        assert name in shlex.split(command.line)


def test_each_run_is_fetched_once() -> None:
    lines = [command.line for command in files.fetching_commands("https://cdds.example", [RUN, ARTIFACT, RUN])]
    assert [line.rpartition(" ")[2] for line in lines] == [RUN, ARTIFACT]
    assert all(line.startswith("cdds artifacts fetch --url https://cdds.example --into exports") for line in lines)


def test_a_choice_is_a_run_and_a_file_of_it() -> None:
    chosen = Chosen.read(f"{RUN}.{ARTIFACT}")
    assert (str(chosen.run_id), str(chosen.artifact_id)) == (RUN, ARTIFACT)
    with pytest.raises(ValueError, match="UUID"):
        Chosen.read(RUN)


@pytest.mark.parametrize(
    ("deleted_at", "reason", "word"),
    [(None, None, None), (THEN, "expired", "Expired"), (THEN, "requested", "Deleted")],
)
def test_a_file_that_is_gone_says_why(deleted_at: str | None, reason: str | None, word: str | None) -> None:
    assert files.gone({"deleted_at": deleted_at, "deletion_reason": reason}) == word
