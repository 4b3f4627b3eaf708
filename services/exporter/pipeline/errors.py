"""What can stop an export, and what can be wrong with a sealed file.

The class docstring is the message for people, `reason` the detail.

    PipelineError
    ├── SourceUnavailable   trying again may help
    │   ├── SourceTooSlow   so may asking for less
    │   └── SourceExhausted likewise
    ├── SourceRefused       trying again can't help until somebody changes the source or the job
    │   ├── FieldUnknown
    │   └── TypeUnknown
    ├── RowTooLarge         trying again can't help until the row is gone
    ├── StoreFailed         trying again may help
    │   ├── StoreFull       so does making room
    │   ├── StoreReadOnly   so does giving the right to write
    │   └── StoreUnreachable
    └── Cancelled           somebody asked for it

    SealError
    ├── MalformedMessage
    ├── NotARecipient
    └── NotAuthentic
"""


class _Explained(Exception):
    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        message = type(self).__doc__ or ""
        return f"{message.removesuffix('.')}: {self.reason}" if self.reason else message


class PipelineError(_Explained):
    """The export stopped."""


class SourceUnavailable(PipelineError):
    """The source database could not be reached, or broke off."""


class SourceTooSlow(SourceUnavailable):
    """The source database broke the query off; ask for fewer rows, or its operator for a longer statement_timeout."""


class SourceExhausted(SourceUnavailable):
    """The source database ran out of room for the query; ask for fewer rows, or its operator for more room."""


class SourceRefused(PipelineError):
    """The source database refused the query."""


class FieldUnknown(SourceRefused):
    """The job names a field that the source does not have."""


class TypeUnknown(SourceRefused):
    """A column has a type that can't be exported."""


class RowTooLarge(PipelineError):
    """A row is larger than the 1 GiB that fit into one file."""


class StoreFailed(PipelineError):
    """The file store did not keep what was written."""


class StoreFull(StoreFailed):
    """The file store is full."""


class StoreReadOnly(StoreFailed):
    """The file store does not allow writing."""


class StoreUnreachable(StoreFailed):
    """The file store could not be reached, or broke off."""


class Cancelled(PipelineError):
    """The export was cancelled."""


class SealError(_Explained):
    """The sealed file can't be opened."""


class MalformedMessage(SealError):
    """The file is not a complete CMS message of the profile that CDDS writes."""


class NotARecipient(SealError):
    """The file was not encrypted for this certificate, or the private key belongs to another one."""


class NotAuthentic(SealError):
    """The file was changed after it was written; nothing that came out of it may be used."""
