"""The signing keys that a folder trusts: those the service showed first, and what it added since."""

from pathlib import Path

from cli.artifacts.manifests import KEYS_NAME, Keys, load_keys
from cli.artifacts.unnamed import write_whole
from cli.console import Exit, Failure


def trusted_keys(folder: Path, shown: bytes) -> Keys:
    """The keys the service shows now, kept in the folder; a key it showed before must not change. Raises Failure."""
    path = folder / KEYS_NAME
    if path.exists() and shown == path.read_bytes():
        return load_keys(path)
    candidate = folder / f"{KEYS_NAME}.new"
    write_whole(candidate, shown)
    try:
        keys = load_keys(candidate)
    except Failure:
        candidate.unlink()
        raise
    if path.exists() and (lost := [name for name, key in load_keys(path).items() if keys.get(name) != key]):
        raise Failure(
            f"the service shows another signing key {lost[0]} than before, or none: ask its operator; if the keys in"
            f" {candidate} are right, move them to {path}",
            Exit.VERIFICATION,
        )
    candidate.replace(path)
    return keys
