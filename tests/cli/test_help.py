"""What commands say of themselves, and to the shell."""

import doctest
from collections.abc import Iterator

import pytest
import typer.main

from cli import console, settings
from cli.__main__ import app
from tests.cli.exports import cdds


def commands() -> Iterator[tuple[str, ...]]:
    """Every command that is no group."""

    def below(command: object, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield path
        for name in inner or ():
            yield from below(inner[name], (*path, name))

    return below(typer.main.get_command(app), ())


@pytest.mark.parametrize("path", [path for path in commands() if path[0] in ("jobs", "runs", "apply", "certificates")])
def test_every_command_teaches_itself_on_eighty_columns(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    told = cdds(*path, "--help")

    assert told.code == 0
    assert f"cdds {' '.join(path)} " in told.out.rpartition("╰")[2], "an example stands at the end"
    for option in ("--url", "--token", "--data", "--tenant", "--output"):
        assert option in told.out
    assert max(map(len, told.out.splitlines())) <= 80


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
