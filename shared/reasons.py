"""Why something did not run, in plain words, and what to do about a failure."""

from collections.abc import Mapping
from typing import Final

SLOTS: Final[Mapping[str, str]] = {
    "overlap": "an earlier run of the job was not over, and its overlap policy leaves such slots out",
    "buffer_full": "an earlier run was not over, and one slot was waiting already",
    "cancelled": "somebody cancelled it while it waited, or deleted the job",
    "catchup_window": "it was noticed later than the job's catch-up settings allow",
    "coalesced": "a later run of the job covers it",
    "suspended": "the job was suspended",
}
"""Why a slot did not run, by the reason the scheduler gives."""

REMEDIES: Final[Mapping[str, str]] = {
    "certificate_required": "Add a valid certificate under Certificates, then retry the run.",
    "export_failed": "Retry the run; if it fails again, give its id to the operator, whose log has the details.",
    "field_unknown": "Correct the job's fields to those that the source has, then run the job again.",
    "internal": "Retry the run; if it fails again, give its id to the operator, whose log has the details.",
    "masking_unconfigured": "Ask the operator to set a masking key, or take the hashed fields out of the job.",
    "plaintext_not_allowed": "Encrypt the job's files with gcm or smime, or ask the operator to allow plaintext.",
    "row_too_large": "Leave the large column out of the job's fields, or have the row removed from the source.",
    "source_exhausted": "Ask for a shorter timeframe, or ask the operator to give the source more room.",
    "source_refused": "Ask the operator to check the rights and tables of the source, then retry the run.",
    "source_too_slow": "Ask for a shorter timeframe, or ask the operator for a longer statement timeout.",
    "source_unavailable": "Check with the operator that the source is up and can be reached, then retry the run.",
    "source_unconfigured": "Ask the operator to correct the file of sources, then retry the run.",
    "source_unknown": "Choose a source and a type that the operator offers now, then run the job again.",
    "stopped": "Nothing: the run was stopped on our side, and another attempt follows or it can be retried.",
    "store_failed": "Retry the run; if it fails again, ask the operator to look at the file store.",
    "store_full": "Ask the operator to make room in the file store, then retry the run.",
    "store_read_only": "Ask the operator to give the exporter the right to write there, then retry the run.",
    "store_unreachable": "Check with the operator that the file store can be reached, then retry the run.",
    "type_unknown": "Leave the column out of the job's fields; its type can't be exported.",
    "worker_lost": "Nothing while attempts are left; else retry the run, and tell the operator if it happens again.",
    "worker_stopped": "Nothing: another worker takes over.",
}
"""What to do about a run that failed, by the reason the exporter gives."""


def remedy(reason: str) -> str:
    """What to do about a failure; of a reason that a newer exporter gives, the most general."""
    return REMEDIES.get(reason, REMEDIES["internal"])
