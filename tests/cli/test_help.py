"""What commands say of themselves, and to the shell."""

import doctest
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer.main

from cli import console, settings
from cli.__main__ import COMMANDS, app
from cli.lazy import LazyGroup
from tests.cli.exports import cdds

HEAVY = ("numpy", "asyncpg", "psycopg", "aiokafka", "fastapi", "httpx", "cryptography", "obstore")


def commands() -> Iterator[tuple[str, ...]]:
    """Every command that is no group."""

    def below(command: object, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield path
        for name in inner or ():
            yield from below(inner[name], (*path, name))

    group = typer.main.get_command(app)
    assert isinstance(group, LazyGroup)
    for name in COMMANDS:
        group.load(name)
    return below(group, ())


@pytest.mark.parametrize("path", [path for path in commands() if path[0] in ("jobs", "runs", "apply", "certificates")])
def test_every_command_teaches_itself_on_eighty_columns(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    told = cdds(*path, "--help")

    assert told.code == 0
    assert f"cdds {' '.join(path)} " in told.out.rpartition("╰")[2], "an example stands at the end"
    for option in ("--url", "--token", "--data", "--tenant", "--output"):
        assert option in told.out
    assert max(map(len, told.out.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_of_itself_what_the_list_of_commands_does(name: str) -> None:
    said = COMMANDS[name].load(name).help
    assert said is not None
    assert COMMANDS[name].help == " ".join(said.split("\n\n")[0].split()).replace("`", "")


def test_the_list_of_commands_needs_none_of_their_modules() -> None:
    code = f"""
import sys
from cli.__main__ import app
try:
    app(["--help"])
finally:
    sys.stderr.write(" ".join(name for name in {HEAVY} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "dead-letters" in done.stdout
    assert done.stderr == ""


def test_the_shell_completes_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_CDDS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "cdds jobs re")
    monkeypatch.setenv("COMP_CWORD", "2")

    assert cdds().out.split() == ["resume"]


@pytest.mark.parametrize("module", [console, settings])
def test_examples_in_docstrings_are_right(module: object) -> None:
    found = doctest.testmod(module)  # pyright: ignore[reportArgumentType]
    assert found.attempted
    assert not found.failed
