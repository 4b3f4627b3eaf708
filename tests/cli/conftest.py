"""A folder that an installation exports into, and one for the recipient's own things."""

from pathlib import Path

import pytest

from tests.cli.exports import ANNA, Installation, write_key


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """Its files and signing keys are in a folder of their own."""
    folder = tmp_path / "exports"
    folder.mkdir()
    made = Installation(folder)
    made.publish_keys()
    return made


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Anna's private key."""
    return write_key(tmp_path, ANNA[0], name="anna.pem")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Where decrypted files go."""
    return tmp_path / "rows"
