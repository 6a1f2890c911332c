"""Azure Key Vault: where tokens may go, names, tokens of both services."""

from __future__ import annotations

import json
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import AgentError, ErrorCode
from agent.hub.kms.azure import BACKEND, Azure, AzureSettings
from agent.hub.kms.http import KmsAnswer
from tests.unit.hub.kms.wire import Bench
from tests.unit.hub.support import failure, unhurried

VAULT = "https://contoso.vault.azure.net"
VERSION = "0123456789abcdef0123456789abcdef"
APPLICATION = {"tenant_id": "contoso.example", "client_id": "c", "client_secret": "s3cr3t&x"}
TOKEN = KmsAnswer(200, b'{"access_token":"t0ken","expires_in":3599,"token_type":"Bearer"}')


def opened(bench: Bench, vault: str = VAULT, **changes: str) -> Azure:
    bench.files["azure/credential.json"] = json.dumps({**APPLICATION, **changes}).encode()
    return cast("Azure", bench.open(BACKEND, AzureSettings(vault)))


@pytest.mark.parametrize(
    "vault",
    [
        "https://contoso.vault.azure.net.evil.example",
        "https://evil.example/contoso.vault.azure.net",
        "https://evil.example#contoso.vault.azure.net",
        "https://user@contoso.vault.azure.net",
        "https://a.b.vault.azure.net",
        "https://x--y.vault.azure.net",
        "https://contoso.vault.azure.net:444",
        "http://contoso.vault.azure.net",
        "https://contoso.vault.azure.net\n",
        "https://contoso.vault.azure.net/x",
        "https://vault.azure.net",
        "",
    ],
)
def test_a_vault_that_may_not_have_our_token(vault: str) -> None:
    with pytest.raises(AgentError) as caught:
        opened(Bench(), vault)
    assert caught.value.code is ErrorCode.KMS_ENDPOINT_REFUSED


@unhurried
@given(st.text(max_size=40))
def test_any_vault(text: str) -> None:
    for vault in (text, f"https://{text}.vault.azure.net", f"https://contoso.vault.azure.net{text}"):
        code = failure(lambda vault=vault: opened(Bench(), vault))  # type: ignore[misc]
        named = vault.startswith("https://") and vault.rstrip("/").endswith(".vault.azure.net")
        assert code is ErrorCode.KMS_ENDPOINT_REFUSED or (code is None and named)


async def test_a_vault_of_the_configuration() -> None:
    bench = Bench()
    bench.wire.endpoints = ("https://vault.private.example",)
    bench.wire.answers = [TOKEN, KmsAnswer(200, b'{"value":"v"}')]
    assert (await opened(bench, "https://vault.private.example/").get("n", {}, bench.soon())).reveal() == b"v"
    assert bench.wire.sent[1].url == "https://vault.private.example/secrets/n?api-version=7.4"


@pytest.mark.parametrize(
    "settings", [AzureSettings(VAULT, "other"), AzureSettings(VAULT, "managed_identity", "not a UUID")]
)
def test_settings_that_are_none(settings: AzureSettings) -> None:
    with pytest.raises(AgentError) as caught:
        Bench().open(BACKEND, settings)
    assert caught.value.code is ErrorCode.KMS_SETTINGS_INVALID


@pytest.mark.parametrize(
    ("name", "version"),
    [("", ""), ("a/b", ""), ("a/", ""), ("a/../b", ""), ("a?x", ""), ("a", "latest"), (f"a/{VERSION}/x", "")],
)
async def test_names_that_are_none(name: str, version: str) -> None:
    bench = Bench()
    with pytest.raises(AgentError) as caught:
        await opened(bench).get(name, {"version": version}, bench.soon())
    assert caught.value.code is ErrorCode.KMS_SETTINGS_INVALID
    assert bench.wire.sent == []


@pytest.mark.parametrize("key", ["k", "k/", f"k/{VERSION}/x", f"../{VERSION}"])
async def test_keys_are_named_with_their_version(key: str) -> None:
    bench = Bench()
    with pytest.raises(AgentError) as caught:
        await opened(bench).decrypt(b"c", key, {}, bench.soon())
    assert caught.value.code is ErrorCode.KMS_SETTINGS_INVALID


async def test_another_keys_answer_is_none() -> None:
    bench = Bench()
    kid = f"{VAULT}/keys/other/{VERSION}"
    bench.wire.answers = [TOKEN, KmsAnswer(200, json.dumps({"kid": kid, "value": "AA"}).encode())]
    with pytest.raises(AgentError) as caught:
        await opened(bench).decrypt(b"c", f"k/{VERSION}", {}, bench.soon())
    assert caught.value.code is ErrorCode.KMS_BAD_RESPONSE


@pytest.mark.parametrize("tenant", ["", "..", "a/../b", "a?b", "a b", "a..b", "."])
async def test_a_tenant_that_is_none(tenant: str) -> None:
    bench = Bench()
    with pytest.raises(AgentError) as caught:
        await opened(bench, tenant_id=tenant).get("n", {}, bench.soon())
    assert caught.value.code is ErrorCode.KMS_CREDENTIALS_INVALID
    assert bench.wire.sent == []


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (KmsAnswer(401, b'{"error":"invalid_client","error_description":"s3cr3t&x"}'), ErrorCode.KMS_DENIED),
        (KmsAnswer(503, b'{"error":"temporarily_unavailable"}'), ErrorCode.KMS_BUSY),
        (KmsAnswer(403, b"<html>a proxy</html>"), ErrorCode.KMS_BAD_RESPONSE),
        (KmsAnswer(200, b'{"access_token":"t","expires_in":"soon"}'), ErrorCode.KMS_BAD_RESPONSE),
        (KmsAnswer(200, b'{"access_token":"","expires_in":9}'), ErrorCode.KMS_BAD_RESPONSE),
        (KmsAnswer(200, b'{"access_token":"t","expires_in":-1}'), ErrorCode.KMS_BAD_RESPONSE),
        (KmsAnswer(200, '{"access_token":"tä","expires_in":9}'.encode()), ErrorCode.KMS_BAD_RESPONSE),
    ],
)
async def test_a_token_service_that_gives_none(answer: KmsAnswer, code: ErrorCode) -> None:
    bench = Bench()
    bench.wire.answers = [answer]
    with pytest.raises(AgentError) as caught:
        await opened(bench).get("n", {}, bench.soon())
    assert caught.value.code is code
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": "Forbidden", "innererror": {"code": "SecretDisabled"}}, ErrorCode.KMS_DENIED),
        ({"code": "Forbidden", "innererror": {"code": "SomethingNew"}}, ErrorCode.KMS_DENIED),
        ({"code": "SecretNotFound"}, ErrorCode.KMS_NOT_FOUND),
        ({"code": "Throttled"}, ErrorCode.KMS_BUSY),
        ({"code": "t0ken"}, ErrorCode.KMS_BAD_RESPONSE),
    ],
)
async def test_the_services_own_codes(error: object, code: ErrorCode) -> None:
    bench = Bench()
    bench.wire.answers = [TOKEN, KmsAnswer(403, json.dumps({"error": error}).encode())]
    with pytest.raises(AgentError) as caught:
        await opened(bench).get("n", {}, bench.soon())
    assert caught.value.code is code
    assert "t0ken" not in str(caught.value)


@unhurried
@given(status=st.sampled_from([200, 400, 401, 403, 404, 429, 500]), body=st.binary(max_size=60))
async def test_any_answer(status: int, body: bytes) -> None:
    bench = Bench()
    bench.wire.answers = [TOKEN, KmsAnswer(status, body), TOKEN, KmsAnswer(status, body)]
    with pytest.raises(AgentError) as caught:
        await opened(bench).get("n", {}, bench.soon())
    assert caught.value.code.name.startswith("KMS_")
