from dataclasses import replace
from datetime import UTC, datetime

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.exporter.pipeline.manifest import (
    DataInterval,
    EntityRecord,
    Manifest,
    ManifestRejected,
    PartRecord,
    SchemaRecord,
    build,
    document,
    sign,
    verify,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
MANIFEST = Manifest(
    run="9c5b94b1-35ad-49bb-b118-8e8fc24abf80",
    job="0190163d-8694-739b-aea5-966c26f8ad90",
    tenant="Zürich",
    slot_key="schedule:2026-03-01T00:00:00Z",
    attempt=2,
    source="ucs",
    type="interaction",
    data_interval=DataInterval(None, datetime(2026, 3, 1, tzinfo=UTC)),
    snapshot="750:750:",
    rows=3,
    entities={"Interaction": EntityRecord(3, ("id", "phone"))},
    parts=(
        PartRecord(
            name="export-9c5b94b1-0001-of-0001.zip.p7m",
            entity="Interaction",
            entry="Interaction-9c5b94b1-0001.jsonl",
            rows=3,
            plain_bytes=300,
            plain_sha256="aa" * 32,
            zip_bytes=400,
            stored_bytes=1400,
            stored_sha256="bb" * 32,
            key="9c5b94b1/2/0001",
        ),
    ),
    schema=SchemaRecord("export-9c5b94b1.schema.json", "dd" * 32),
    recipients=("cc" * 32,),
    masking={"phone": "hash"},
    format="jsonl",
    csv_profile="spreadsheet",
    encryption="gcm",
    software_version="0.1.0",
    created_at=datetime(2026, 3, 1, 0, 0, 7, tzinfo=UTC),
    previous_manifest_sha256=None,
)


def test_equal_manifests_are_equal_bytes_in_sorted_order() -> None:
    written = build(MANIFEST)

    assert written == build(replace(MANIFEST))
    assert written.startswith(
        b'{"attempt":2,"created_at":"2026-03-01T00:00:07Z","csv_profile":"spreadsheet","data_interval":{"from":null,"to":"2026'
    )
    assert build(replace(MANIFEST, rows=4)) != written


def test_what_was_signed_verifies_and_names_its_key() -> None:
    signed = sign(document(MANIFEST), KEY, "installation-2026")

    assert verify(signed, KEY.public_key()) == document(MANIFEST)
    assert orjson.loads(signed)["signature"]["key_id"] == "installation-2026"
    assert sign(orjson.loads(signed), KEY, "installation-2026") == signed


def test_a_single_changed_value_is_rejected() -> None:
    signed = sign(document(MANIFEST), KEY, "k")

    with pytest.raises(ManifestRejected, match="does not match"):
        verify(signed.replace(b'"rows":3', b'"rows":4'), KEY.public_key())


def test_another_key_is_rejected() -> None:
    with pytest.raises(ManifestRejected, match="does not match"):
        verify(sign(document(MANIFEST), Ed25519PrivateKey.generate(), "k"), KEY.public_key())


@pytest.mark.parametrize(
    "signed",
    [
        b"",
        b"[]",
        b"1",
        b"{}",
        b'{"signature":null}',
        b'{"signature":{"algorithm":"Ed25519","key_id":"k","value":"!"}}',
        b'{"signature":{"algorithm":"none","key_id":"k","value":""}}',
        b'{"rows":1,"rows":2,"signature":{"algorithm":"Ed25519","key_id":"k","value":""}}',
        b"\xff",
    ],
)
def test_anything_else_is_rejected(signed: bytes) -> None:
    with pytest.raises(ManifestRejected):
        verify(signed, KEY.public_key())
