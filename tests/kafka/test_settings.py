"""Settings for Kafka that do not fit together, or name files that can't be used, are refused by name."""

import os
import ssl
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cli.installation import Installation
from shared.cluster import KafkaSettings
from tests.kafka.certificates import Authority

PASSWORD = "correct-horse"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("settings"), "authority")


def sasl(**changes: Any) -> dict[str, Any]:
    named = {"kafka_security": "sasl_ssl", "kafka_username": "scheduler", "kafka_password": PASSWORD, **changes}
    return {name: value for name, value in named.items() if value is not None}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no user": (sasl(kafka_username=None), "KAFKA_SECURITY is sasl_ssl: set KAFKA_USERNAME, too"),
    "no password": (sasl(kafka_password=None), "KAFKA_SECURITY is sasl_ssl: set KAFKA_PASSWORD, too"),
    "a user on plain TCP": ({"kafka_username": "x"}, "KAFKA_SECURITY is plaintext: set KAFKA_SECURITY to sasl_ssl"),
    "a CA on plain TCP": ({"kafka_ca": "/ca"}, "KAFKA_SECURITY is plaintext: set KAFKA_SECURITY to ssl or sasl_ssl"),
    "a password without SASL": (
        {"kafka_security": "ssl", "kafka_password": PASSWORD}, "KAFKA_SECURITY is ssl, which has no passwords",
    ),
    "a certificate without its key": (sasl(kafka_certificate="/c"), "KAFKA_CERTIFICATE and KAFKA_KEY go together"),
    "a key without its certificate": (sasl(kafka_key="/k"), "KAFKA_CERTIFICATE and KAFKA_KEY go together"),
    "a CA that is not there": (sasl(kafka_ca="/nowhere/ca.pem"), "KAFKA_CA: No such file or directory"),
    "a CA that is none": (sasl(kafka_ca=__file__), "has no certificates"),
    "SASL without TLS": (sasl(kafka_security="sasl_plaintext"), "'plaintext', 'ssl' or 'sasl_ssl'"),
    "a certificate that is not there": (
        sasl(kafka_certificate="/nowhere/c", kafka_key="/nowhere/k"), "KAFKA_CERTIFICATE: No such file or directory",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(case: str) -> None:
    settings, sentence = REFUSED[case]
    with pytest.raises(ValidationError) as raised:
        KafkaSettings.model_validate({"kafka": "kafka:9093", **settings})
    [problem] = raised.value.errors()
    assert sentence in problem["msg"]
    assert PASSWORD not in problem["msg"]


def test_a_key_of_another_certificate_and_one_with_a_password_are_refused(authority: Authority) -> None:
    certificate, key = authority.issue("one")
    _, another = authority.issue("another")
    for wrong, sentence in ((another, "not the key of"), (authority.path, "no unencrypted private key")):
        with pytest.raises(ValidationError, match=sentence):
            KafkaSettings.model_validate(
                {"kafka": "x", "kafka_security": "ssl", "kafka_certificate": certificate, "kafka_key": wrong}
            )
    settings = {"kafka": "x", "kafka_security": "ssl", "kafka_certificate": certificate, "kafka_key": key}
    assert KafkaSettings.model_validate(settings).cluster.client()["security_protocol"] == "SSL"


def test_tls_checks_names_and_is_not_older_than_1_2(authority: Authority) -> None:
    settings = KafkaSettings.model_validate({"kafka": "x", **sasl(kafka_ca=authority.path)})
    tls = settings.cluster.tls
    assert tls is not None
    assert tls.check_hostname
    assert tls.verify_mode == ssl.CERT_REQUIRED
    assert tls.minimum_version == ssl.TLSVersion.TLSv1_2
    assert settings.cluster is settings.cluster, "one context for all clients"
    assert PASSWORD not in repr(settings) + repr(settings.cluster)
    assert settings.cluster.client()["sasl_plain_password"] == PASSWORD


@pytest.mark.parametrize(
    ("environment", "address", "user"),
    [
        ({}, "theirs:1", "job_api"),
        ({"CDDS_KAFKA_USERNAME": "operator", "CDDS_KAFKA_PASSWORD": "x"}, "theirs:1", "operator"),
        ({"CDDS_KAFKA": "mine:1"}, "mine:1", "job_api"),
        ({"CDDS_KAFKA": "mine:1", "CDDS_KAFKA_SECURITY": "plaintext"}, "mine:1", None),
        ({"CDDS_KAFKA_SECURITY": "plaintext"}, "theirs:1", None),
    ],
)
def test_a_command_comes_as_itself_or_as_the_first_service(
    environment: dict[str, str], address: str, user: str | None
) -> None:
    theirs = {"kafka": "theirs:1", **sasl(kafka_username="job_api")}
    known = {f"CDDS_JOB_API_{name.upper()}": value for name, value in theirs.items()}
    cluster = Installation({**known, **environment}).cluster()
    assert cluster is not None
    assert (cluster.bootstrap, cluster.username) == (address, user)


def test_a_file_that_may_not_be_read_is_said_so(authority: Authority, tmp_path: Path) -> None:
    closed = tmp_path / "ca.pem"
    closed.write_bytes(authority.path.read_bytes())
    closed.chmod(0)
    if os.access(closed, os.R_OK):
        closed = tmp_path  # root may read every file, but no folder is one
    with pytest.raises(ValidationError, match=r"KAFKA_CA: .*(Permission denied|has no certificates|Is a directory)"):
        KafkaSettings.model_validate({"kafka": "x", "kafka_security": "ssl", "kafka_ca": closed})
