"""What a browser sent, or is shown: each input's values by its name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Form:
    """The values of inputs as text; one that is not there has none."""

    values: Mapping[str, tuple[str, ...]]

    @classmethod
    def sent(cls, pairs: Iterable[tuple[str, str]]) -> "Form":
        """What a browser sent; it ends lines with CR LF whatever they ended with before."""
        values: dict[str, tuple[str, ...]] = {}
        for name, value in pairs:
            values[name] = (*values.get(name, ()), value.replace("\r\n", "\n").replace("\r", "\n"))
        return cls(values)

    @classmethod
    def shown(cls, **values: str | Iterable[str]) -> "Form":
        """Values to show, one text or several."""
        return cls({name: (value,) if isinstance(value, str) else tuple(value) for name, value in values.items()})

    def one(self, name: str) -> str:
        """The value of an input that has one; without the spaces around it."""
        return self.text(name).strip()

    def text(self, name: str) -> str:
        """The value of an input as it was typed."""
        return next(iter(self.values.get(name, ())), "")

    def every(self, name: str) -> tuple[str, ...]:
        """The values of all inputs of that name."""
        return self.values.get(name, ())

    def has(self, name: str, value: str) -> bool:
        """Whether that is one of its values: what is checked or selected."""
        return value in self.every(name)

    def rows(self, name: str, other: str) -> list[tuple[str, str]]:
        """The values of two inputs that stand beside each other in rows, without the rows that nothing is in."""
        rows = zip(self.every(name), self.every(other), strict=False)
        return [row for row in rows if any(text.strip() for text in row)]

    def with_values(self, **changed: str | Iterable[str]) -> "Form":
        """The form with other values of these inputs."""
        return Form({**self.values, **Form.shown(**changed).values})
