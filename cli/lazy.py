"""Commands that are imported when they are called: the list of them needs none of their modules.

Typer has the names and the first sentences of commands from the functions; so they are said twice, and a test holds
the two against each other.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

MARKUP: Final = "markdown"


@dataclass(frozen=True, slots=True)
class Lazy:
    """Where a command or a group of commands is, as `module:name`, and what it is in a sentence."""

    where: str
    help: str
    epilog: str | None = None

    def load(self, name: str) -> Any:
        """The command itself."""
        module, _, attribute = self.where.partition(":")
        found = getattr(import_module(module), attribute)
        alone = typer.Typer(rich_markup_mode=MARKUP, add_completion=False)
        alone.callback()(lambda: None)
        if isinstance(found, typer.Typer):
            alone.add_typer(found, name=name)
        else:
            alone.command(name, epilog=self.epilog)(found)
        return get_group(alone).commands[name]


class LazyGroup(TyperGroup):
    """Knows its commands by their names, and imports the one that is called."""

    lazy: dict[str, Lazy]

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        for name, command in self.lazy.items():
            self.commands[name] = TyperCommand(name, help=command.help, rich_markup_mode=MARKUP)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As click does, with the command itself in the place of its sentence."""
        if args and args[0] in self.lazy:
            self.load(args[0])
        return super().resolve_command(ctx, args)

    def load(self, name: str) -> None:
        """Import a command."""
        self.commands[name] = self.lazy[name].load(name)
