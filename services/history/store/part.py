"""What all parts of the store share."""

from shared.database import Database


class Part:
    """A part of the store."""

    def __init__(self, database: Database) -> None:
        self._database = database
