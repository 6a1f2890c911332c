"""Whom credentials may be sent to. What comes back is in tests/integration/kms/."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from agent.config.model import Kms
from agent.devkit.pki import Authority, self_signed
from agent.errors import AgentError, ErrorCode
from agent.hub.kms.http import KmsHttp, cloud_host
from agent.secret import Secret
from tests.unit.hub.support import failure, soon, unhurried

ENDPOINTS = ("https://vault.example:8200", "https://gate.example/kms/one", "http://127.0.0.1:9000")
REGION = re.compile(r"[a-z]{2}-[a-z]+-[0-9]", re.ASCII)


def http(*endpoints: str) -> KmsHttp:
    return KmsHttp(Kms(endpoints=endpoints or ENDPOINTS))


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://vault.example:8200", "https://vault.example:8200"),
        ("https://vault.example:8200///", "https://vault.example:8200"),
        ("https://VAULT.example:8200/v1", "https://VAULT.example:8200/v1"),
        ("https://gate.example:443/kms/one", "https://gate.example:443/kms/one"),
        ("https://gate.example/kms/one/two/", "https://gate.example/kms/one/two"),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
    ],
)
def test_configured_addresses(url: str, base: str) -> None:
    assert http().allowed(url) == base


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://vault.example",
        "https://vault.example:8201",
        "http://vault.example:8200",
        "https://vault.example.attacker:8200",
        "https://vault.example:8200.attacker",
        "https://vault.example:8200@attacker",
        "https://vault.example:8200\\@attacker",
        "https://attacker/vault.example:8200",
        "https://vault.example:8200?x",
        "https://vault.example:8200#x",
        "https://vault.example:8200/\r\nx: y",
        "https://v\u0430ult.example:8200",
        "https://gate.example/kms",
        "https://gate.example/kms/onetwo",
        "https://gate.example/kms/one/../two",
        "https://gate.example/kms/one/%2e%2e/two",
        "http://127.0.0.1:9001",
        "http://localhost:9000",
        "ftp://vault.example:8200",
        "//vault.example:8200",
    ],
)
def test_any_other_address(url: str) -> None:
    with pytest.raises(AgentError) as caught:
        http().allowed(url)
    assert caught.value.code is ErrorCode.KMS_ENDPOINT_REFUSED
    assert not url or url not in caught.value.detail


def test_none_is_allowed_unless_configured() -> None:
    assert failure(lambda: KmsHttp(Kms()).allowed(ENDPOINTS[0])) is ErrorCode.KMS_ENDPOINT_REFUSED


@unhurried
@given(
    st.lists(
        st.sampled_from(
            ["https://", "http://", "vault.example", ":8200", "/", ".", "..", "@", "x", "%2f", "\\"]
        ),
        max_size=8,
    ).map("".join)
    | st.text(max_size=40)
)
def test_whatever_is_allowed_is_at_a_configured_host(url: str) -> None:
    def ask() -> None:
        base = http().allowed(url)
        parts = urlsplit(base)
        assert (parts.scheme, parts.hostname, parts.port) == ("https", "vault.example", 8200)

    assert failure(ask) in {None, ErrorCode.KMS_ENDPOINT_REFUSED}


@pytest.mark.parametrize(
    "region", ["", "us", "us-east-1.attacker.example/", "us-east-1\n", "US-EAST-1", "us-east-1@x"]
)
def test_a_region_makes_no_other_host(region: str) -> None:
    with pytest.raises(AgentError) as caught:
        cloud_host("kms.{}.amazonaws.com", region, REGION, "region")
    assert caught.value.code is ErrorCode.KMS_SETTINGS_INVALID
    assert "region" in caught.value.detail
    assert (
        cloud_host("kms.{}.amazonaws.com", "us-east-1", REGION, "region")
        == "https://kms.us-east-1.amazonaws.com"
    )


@pytest.mark.parametrize(
    ("url", "headers", "code"),
    [
        ("http://vault.example:8200/x", {}, ErrorCode.KMS_ENDPOINT_REFUSED),
        ("http://127.0.0.1:9001/x", {}, ErrorCode.KMS_ENDPOINT_REFUSED),
        ("http://localhost/x", {}, ErrorCode.KMS_ENDPOINT_REFUSED),
        ("https://vault.example:8200/a b", {}, ErrorCode.KMS_SETTINGS_INVALID),
        ("https://vault.example:8200/\u00e4", {}, ErrorCode.KMS_SETTINGS_INVALID),
        ("https://[::::/x", {}, ErrorCode.KMS_ENDPOINT_REFUSED),
        ("https://vault.example:99999/", {}, ErrorCode.KMS_ENDPOINT_REFUSED),
        ("gopher://vault.example", {}, ErrorCode.KMS_SETTINGS_INVALID),
        (
            "https://vault.example:8200",
            {"X-Vault-Token": "c4n4ry\r\nx: y"},
            ErrorCode.KMS_CREDENTIALS_INVALID,
        ),
        ("https://vault.example:8200", {"X-Vault-Token": "c4n4ry\n"}, ErrorCode.KMS_CREDENTIALS_INVALID),
        ("https://vault.example:8200", {"X-Vault-Token": "c4n4ry\u00e4"}, ErrorCode.KMS_CREDENTIALS_INVALID),
    ],
)
async def test_what_is_never_sent(url: str, headers: dict[str, str], code: ErrorCode) -> None:
    with pytest.raises(AgentError) as caught:
        await http().send("GET", url, headers, b"", soon())
    assert caught.value.code is code
    assert "c4n4ry" not in str(caught.value)


async def test_a_service_without_tls_may_be_configured_for_another_machine_by_nobody() -> None:
    """The configuration refuses it already (``kms.endpoints``); this is the second look."""
    with pytest.raises(AgentError) as caught:
        await http("http://vault.example:8200").send("GET", "http://vault.example:8200/", {}, b"", soon())
    assert caught.value.code is ErrorCode.KMS_ENDPOINT_REFUSED


async def test_closed_is_closed() -> None:
    closed = http()
    await closed.close()
    await closed.close()
    with pytest.raises(AgentError) as caught:
        await closed.send("GET", "https://vault.example:8200/", {}, b"", soon())
    assert caught.value.code is ErrorCode.CANCELLED


# --- TLS of a service's own -------------------------------------------------------------------------
async def test_roots_and_identities_that_are_none() -> None:
    client, other = self_signed("client"), self_signed("other")
    plain = client.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    locked = client.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    own, foreign = client.cert_pem.encode(), other.cert_pem.encode()
    await http().trust(Authority().pem, Secret(own + plain))
    for identity in (b"", b"\xff", own, plain, foreign + plain, own + locked):
        with pytest.raises(AgentError) as caught:
            await http().trust(identity=Secret(identity))
        assert caught.value.code is ErrorCode.KMS_CREDENTIALS_INVALID
    for roots in ("nothing", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"):
        with pytest.raises(AgentError) as caught:
            await http().trust(roots)
        assert caught.value.code is ErrorCode.KMS_CREDENTIALS_INVALID
