class Decoder:
    """Turns messages of a binary COPY into JSON Lines; holds no state, so threads may share one."""

    def __new__(cls, prefixes: tuple[bytes, ...], kinds: bytes) -> Decoder:
        """`prefixes` is what stands before each value, `kinds` one letter for each (`rows.py`)."""

    def decode(self, messages: list[bytes | bytearray | memoryview]) -> tuple[bytes, bytes]:
        """The records, and for each where it ends as 8 bytes in the machine's order; lets go of the GIL.

        Raises ValueError where a message is no row of these columns, OverflowError where a record exceeds 1 GiB.
        """
