"""eHSM: what is signed, what the service's messages mean, whom the key is used for."""

from __future__ import annotations

import json
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import AgentError, ErrorCode
from agent.hub.kms.ehsm import BACKEND, Ehsm, EhsmSettings, render, sign
from agent.hub.kms.http import KmsAnswer
from tests.unit.hub.kms.wire import Bench
from tests.unit.hub.support import unhurried

BODY = {
    "timestamp": "1790000000000",
    "payload": {"keyid": "k-1", "ciphertext": "YWI=", "aad": ""},
    "nonce": "42",
    "appid": "app-1",
}


def opened(bench: Bench, app: str = "app-1", endpoint: str = "https://ehsm.example:9000") -> Ehsm:
    bench.wire.endpoints = ("https://ehsm.example:9000",)
    bench.files["ehsm/credential_app-1.json"] = b'{"AppId":"app-1","ApiKey":"s3cret"}'
    return cast("Ehsm", bench.open(BACKEND, EhsmSettings(app, endpoint)))


def test_what_is_signed() -> None:
    """As ``openssl dgst -sha256 -hmac s3cret -binary | base64`` has it for the text."""
    text = "appid=app-1&nonce=42&payload=ciphertext=YWI=&keyid=k-1&timestamp=1790000000000"
    assert render(BODY) == text
    assert sign(BODY, "s3cret") == "81QAat1uNvPXcyhdoIb/qIdYRN6vijfmwxiakNlx+N0="


async def test_a_request() -> None:
    bench = Bench()
    bench.wire.answers = [KmsAnswer(200, b'{"code":200,"message":"ok","result":{"plaintext":"YWJj"}}')]
    plaintext = await opened(bench).decrypt(b"dGV4dA==", "k-1", {}, bench.soon())
    assert plaintext.reveal() == b"abc"
    sent = bench.wire.sent[0]
    told = json.loads(sent.body)
    assert sent.url == "https://ehsm.example:9000/ehsm?Action=Decrypt"
    assert told["payload"] == {"keyid": "k-1", "ciphertext": "dGV4dA=="}
    assert told.pop("sign") == sign(told, "s3cret")


async def test_the_signing_key_goes_nowhere_else() -> None:
    bench = Bench()
    with pytest.raises(AgentError) as caught:
        await opened(bench, endpoint="https://evil.example:9000").decrypt(b"YWI=", "k", {}, bench.soon())
    assert caught.value.code is ErrorCode.KMS_ENDPOINT_REFUSED
    assert bench.wire.sent == []


@pytest.mark.parametrize("app", ["", "../x", "a b", "a/b"])
def test_an_application_that_is_none(app: str) -> None:
    with pytest.raises(AgentError) as caught:
        opened(Bench(), app)
    assert caught.value.code is ErrorCode.KMS_SETTINGS_INVALID


async def test_credentials_of_another_application() -> None:
    bench = Bench({"ehsm/credential_app-2.json": b'{"AppId":"app-1","ApiKey":"s3cret"}'})
    with pytest.raises(AgentError) as caught:
        await opened(bench, "app-2").decrypt(b"YWI=", "k", {}, bench.soon())
    assert caught.value.code is ErrorCode.KMS_CREDENTIALS_INVALID


@pytest.mark.parametrize(
    ("ciphertext", "key"), [(b"", "k"), (b"a b", "k"), (b"\xff", "k"), (b"YWI=", "k&x=1")]
)
async def test_what_could_be_signed_in_two_ways_is_refused(ciphertext: bytes, key: str) -> None:
    bench = Bench()
    with pytest.raises(AgentError) as caught:
        await opened(bench).decrypt(ciphertext, key, {}, bench.soon())
    assert caught.value.code is ErrorCode.KMS_SETTINGS_INVALID


@pytest.mark.parametrize(
    ("code", "message", "wanted"),
    [
        (400, "sign error", ErrorCode.KMS_DENIED),
        (400, "Timestamp error", ErrorCode.KMS_DENIED),
        (400, "keyid error", ErrorCode.KMS_NOT_FOUND),
        (400, "keyid is disabled", ErrorCode.KMS_DENIED),
        (400, "s3cret new message", ErrorCode.KMS_DENIED),
        (500, "Server internal error", ErrorCode.KMS_BUSY),
    ],
)
async def test_what_messages_mean(code: int, message: str, wanted: ErrorCode) -> None:
    bench = Bench()
    body = json.dumps({"code": code, "message": message, "result": "whatever"}).encode()
    bench.wire.answers = [KmsAnswer(200, body)]
    with pytest.raises(AgentError) as caught:
        await opened(bench).decrypt(b"YWI=", "k", {}, bench.soon())
    assert caught.value.code is wanted
    assert "s3cret" not in str(caught.value)


@unhurried
@given(status=st.sampled_from([200, 400, 404, 500]), body=st.binary(max_size=60))
async def test_any_answer(status: int, body: bytes) -> None:
    bench = Bench()
    bench.wire.answers = [KmsAnswer(status, body)]
    with pytest.raises(AgentError) as caught:
        await opened(bench).decrypt(b"YWI=", "k", {}, bench.soon())
    assert caught.value.code in {ErrorCode.KMS_BAD_RESPONSE, ErrorCode.KMS_BUSY}
