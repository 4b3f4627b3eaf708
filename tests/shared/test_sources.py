"""The operator's file of sources: read, or refused by the name of the file and the entry."""

from datetime import timedelta
from pathlib import Path

import pytest

from deploy import local
from shared.sources import Sources, SourcesInvalid

GOOD = """
[sources.ucs]
title = "UCS"
dsn = "env:CDDS_TEST_DSN"
settle = "PT10M"

[sources.ucs.types.contact]
title = "Contact"
table = "ucs.contacts"
id_column = "id"
time_column = "at"
tenant_column = "tenant"
"""


def written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "operator.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_the_shipped_file_is_good() -> None:
    shipped = Sources.load(Path(local.__path__[0]) / "sources.toml")
    assert set(shipped.visible_to("acme")) >= {"ucs", "contact_history"}


def test_a_good_file_is_read(tmp_path: Path) -> None:
    sources = Sources.load(written(tmp_path, GOOD))
    assert sources.settle("ucs") == timedelta(minutes=10)
    assert sources.settle("gone") == timedelta(0)


def test_a_source_shows_itself_to_its_tenants_only(tmp_path: Path) -> None:
    sources = Sources.load(written(tmp_path, GOOD.replace("settle", 'tenants = ["acme"]\nsettle')))
    assert set(sources.visible_to("acme")) == {"ucs"}
    assert sources.visible_to("globex") == {}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        pytest.param("sources = [", "operator.toml", id="no TOML"),
        pytest.param(b"\xff\xfe", "operator.toml", id="not UTF-8"),
        pytest.param("", "sources", id="empty"),
        pytest.param(GOOD.replace("env:CDDS_TEST_DSN", "postgresql://secret"), "ucs.dsn", id="a DSN in the file"),
        pytest.param(GOOD.replace('tenant_column = "tenant"', ""), "tenant_column", id="rows that are nobody's"),
        pytest.param(GOOD.replace("id_column", "idcolumn"), "idcolumn", id="a misspelt entry"),
        pytest.param(GOOD.replace("ucs.contacts", "contacts"), "table", id="a table without schema"),
        pytest.param(GOOD + 'media_types = ["voice"]', "media_type_column", id="media types without a column"),
    ],
)
def test_a_bad_file_is_refused_and_says_where(tmp_path: Path, content: str | bytes, named: str) -> None:
    with pytest.raises(SourcesInvalid, match=r"operator\.toml") as refused:
        Sources.load(written(tmp_path, content))
    assert named in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourcesInvalid, match=r"missing\.toml"):
        Sources.load(tmp_path / "missing.toml")


def test_a_dsn_is_a_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Sources.load(written(tmp_path, GOOD)).sources["ucs"]
    with pytest.raises(SourcesInvalid, match="CDDS_TEST_DSN is not set"):
        source.resolve_dsn()
    monkeypatch.setenv("CDDS_TEST_DSN", "postgresql://here")
    assert source.resolve_dsn() == "postgresql://here"
    secret = tmp_path / "dsn"
    by_file = source.model_copy(update={"dsn": f"file:{secret}"})
    with pytest.raises(SourcesInvalid, match="does not exist"):
        by_file.resolve_dsn()
    secret.write_text("postgresql://there\n")
    assert by_file.resolve_dsn() == "postgresql://there"
