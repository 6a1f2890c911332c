"""Alibaba Cloud KMS: the vendor's signature example, credentials of all kinds, the messages' numbers."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import cast

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import AgentError, ErrorCode
from agent.hub.kms.aliyun import BACKEND, AliyunSettings
from agent.hub.kms.aliyun.client_key import ClientKeyClient, private_key, signed_headers
from agent.hub.kms.aliyun.common import CODES
from agent.hub.kms.aliyun.session import StsToken, canonical, parse_sts, sign
from agent.hub.kms.answers import refused
from agent.hub.kms.http import KmsAnswer
from agent.protos import aliyun_kms_pb2 as pb
from tests.unit.hub.kms.wire import Bench
from tests.unit.hub.support import failure, unhurried

CLIENT_KEY = json.loads(Path(__file__).with_name("client_key_rc2.json").read_text())
PASSWORD = b"throw-away-password"


# --- RPC signature --------------------------------------------------------------------------------
def test_the_vendors_signature_example() -> None:
    """``DescribeRegions`` of the ECS documentation, testid/testsecret."""
    parameters = {
        "Timestamp": "2016-02-23T12:46:24Z",
        "Format": "XML",
        "AccessKeyId": "testid",
        "Action": "DescribeRegions",
        "SignatureMethod": "HMAC-SHA1",
        "SignatureNonce": "3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf",
        "Version": "2014-05-26",
        "SignatureVersion": "1.0",
    }
    assert sign("GET", parameters, "testsecret") == "OLeaidS1JvxuMvnyHOwuJ+uX5qY="


def test_parameters_are_sorted_and_encoded_as_the_vendor_wants() -> None:
    assert canonical({"b": "~ *", "a": "/+ä", "A": ""}) == "A=&a=%2F%2B%C3%A4&b=~%20%2A"


# --- STS files ------------------------------------------------------------------------------------
def test_white_space_at_the_end_does_not_count_and_is_told() -> None:
    plain, trimmed = parse_sts(b"id:secret:token", "f"), parse_sts(b"id:secret:token\r\n", "f")
    assert plain[0] == trimmed[0]
    assert (plain[1], trimmed[1]) == (False, True)
    assert plain[0].security_token == "token"


@pytest.mark.parametrize("content", [b"", b"a:b", b"a:b:c:d", b"a::c", b"a:b:c d", b"a:b:c\nx", b":::"])
def test_an_sts_file_that_is_none(content: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        parse_sts(content, "f")
    assert caught.value.code is ErrorCode.KMS_CREDENTIALS_INVALID


@unhurried
@given(st.binary(max_size=100))
def test_any_sts_file(content: bytes) -> None:
    assert failure(lambda: parse_sts(content, "f")) in {None, ErrorCode.KMS_CREDENTIALS_INVALID}


def test_a_session_does_not_print() -> None:
    assert "secret" not in repr(parse_sts(b"id:secret:token", "f"))


async def test_the_newline_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench({"aliyun/token": b"id:s3cret:t0ken\n"})
    answer = KmsAnswer(200, b'{"SecretName":"n","SecretData":"v"}')
    bench.wire.answers = [answer, answer]
    getter = cast("StsToken", bench.open(BACKEND, AliyunSettings("sts_token", "", "", "token", "cn-beijing")))
    for _ in range(2):
        assert (await getter.get("n", {}, bench.soon())).reveal() == b"v"
    told = [record for record in caplog.records if "white space" in record.message]
    assert len(told) == 1
    assert "t0ken" not in caplog.text


# --- client keys ----------------------------------------------------------------------------------
def test_a_key_of_the_console_is_opened() -> None:
    """PKCS#12 with RC2-40 and 3DES, made by openssl."""
    assert private_key(CLIENT_KEY["PrivateKeyData"], PASSWORD, "f").key_size == 2048


@pytest.mark.parametrize(
    ("data", "password"),
    [
        (CLIENT_KEY["PrivateKeyData"], b"another"),
        (CLIENT_KEY["PrivateKeyData"], b""),
        (CLIENT_KEY["PrivateKeyData"][:400], PASSWORD),
        ("AAAA", PASSWORD),
        ("not base64!", PASSWORD),
        ("", PASSWORD),
    ],
)
def test_a_client_key_that_cannot_be_opened(data: str, password: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        private_key(data, password, "clientKey_x.json")
    assert caught.value.code is ErrorCode.KMS_CREDENTIALS_INVALID
    assert "throw-away" not in caught.value.detail


def test_the_head_of_a_request_is_signed() -> None:
    key = private_key(CLIENT_KEY["PrivateKeyData"], PASSWORD, "f")
    date = "Mon, 21 Sep 2026 14:13:20 GMT"
    head = signed_headers("Decrypt", b"body", date, "KAAP.x", key)
    digest = "230D8358DC8E8890B4C58DEEB62912EE2F20357AE92A5CC861B98E68FE31ACB5"
    assert head["Content-Sha256"] == digest
    text = (
        f"POST\n{digest}\napplication/x-protobuf\n{date}\n"
        "x-kms-acccesskeyid:KAAP.x\nx-kms-apiname:Decrypt\nx-kms-apiversion:dkms-gcs-0.2\n"
        "x-kms-signaturemethod:RSA_PKCS1_SHA_256\n/"
    )
    verify(key.public_key(), head["Authorization"], text)
    with pytest.raises(InvalidSignature):
        verify(key.public_key(), head["Authorization"], text.replace("Decrypt", "Encrypt"))


def verify(key: rsa.RSAPublicKey, authorization: str, text: str) -> None:
    assert authorization.startswith("Bearer ")
    key.verify(base64.b64decode(authorization[7:]), text.encode(), padding.PKCS1v15(), hashes.SHA256())


# --- protobuf -------------------------------------------------------------------------------------
def test_messages_have_the_vendors_numbers() -> None:
    assert (
        pb.DecryptRequest(CiphertextBlob=b"c", KeyId="k", Algorithm="AES_GCM", Iv=b"i").SerializeToString()
        == b"\x0a\x01c\x12\x01k\x1a\x07AES_GCM\x2a\x01i"
    )
    assert (
        pb.EncryptRequest(KeyId="k", Plaintext=b"p", Algorithm="AES_GCM").SerializeToString()
        == b"\x0a\x01k\x12\x01p\x1a\x07AES_GCM"
    )
    assert (
        pb.GetSecretValueRequest(
            SecretName="n", VersionStage="s", VersionId="v", FetchExtendedConfig=True
        ).SerializeToString()
        == b"\x0a\x01n\x12\x01s\x1a\x01v\x20\x01"
    )
    error = pb.Error.FromString(b"\x08\x93\x03\x12\x01C\x1a\x01M")
    assert (error.StatusCode, error.ErrorCode, error.ErrorMessage) == (403, "C", "M")


async def client(bench: Bench, pem: str) -> ClientKeyClient:
    bench.files.update(
        {
            "aliyun/clientKey_KAAP.x.json": json.dumps(CLIENT_KEY).encode(),
            "aliyun/password_KAAP.x.json": PASSWORD + b"\n",
            "aliyun/PrivateKmsCA_kst-x.pem": pem.encode(),
        }
    )
    return cast("ClientKeyClient", bench.open(BACKEND, AliyunSettings("client_key", "KAAP.x", "kst-x")))


async def test_any_answer_of_the_instance(authority_pem: str) -> None:
    bench = Bench()
    opened = await client(bench, authority_pem)
    odd = [
        b"",
        b"\x0a",
        b"\x0a\x05ab",
        b"\x0a\x02\xff\xfe",
        b"\x7b}",
        b"\x0a\x05other",
        bytes(64),
        b"\x12\x01p",
    ]
    for body in odd:
        bench.wire.answers = [KmsAnswer(200, body), KmsAnswer(200, body)]
        with pytest.raises(AgentError) as caught:
            await opened.get("name", {}, bench.soon())
        assert caught.value.code is ErrorCode.KMS_BAD_RESPONSE
        if body != b"\x0a\x05other":
            with pytest.raises(AgentError) as caught:
                await opened.decrypt(b"c", "key", {"iv": "AAAA"}, bench.soon())
            assert caught.value.code is ErrorCode.KMS_BAD_RESPONSE


@pytest.mark.parametrize("annotations", [{}, {"iv": "?"}, {"iv": 7}])
async def test_annotations_that_are_none(annotations: dict[str, object], authority_pem: str) -> None:
    bench = Bench()
    with pytest.raises(AgentError) as caught:
        await (await client(bench, authority_pem)).decrypt(b"c", "key", annotations, bench.soon())
    assert caught.value.code is ErrorCode.KMS_SETTINGS_INVALID
    assert bench.wire.sent == []


# --- settings -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "settings",
    [
        AliyunSettings("other"),
        AliyunSettings("client_key"),
        AliyunSettings("client_key", "KAAP.x", "evil.example/#"),
        AliyunSettings("client_key", "../x", "kst-x"),
        AliyunSettings("sts_token", token_path="/run/", region_id="cn-beijing"),
        AliyunSettings("sts_token", token_path="/run/token", region_id="evil.example/?"),
        AliyunSettings("sts_token", token_path="/run/token"),
    ],
)
def test_settings_that_name_no_service(settings: AliyunSettings) -> None:
    with pytest.raises(AgentError) as caught:
        Bench().open(BACKEND, settings)
    assert caught.value.code is ErrorCode.KMS_SETTINGS_INVALID


async def test_a_token_path_is_a_name_in_the_folder_of_credentials() -> None:
    bench = Bench({"aliyun/shadow": b"id:secret:token"})
    bench.wire.answers = [KmsAnswer(200, b'{"SecretName":"n","SecretData":"v"}')]
    settings = AliyunSettings("sts_token", token_path="/etc/shadow", region_id="cn-beijing")
    getter = cast("StsToken", bench.open(BACKEND, settings))
    assert (await getter.get("n", {}, bench.soon())).reveal() == b"v"
    assert bench.wire.sent[0].url.startswith("https://kms.cn-beijing.aliyuncs.com/?AccessKeyId=id&")


async def test_another_secret_is_none() -> None:
    bench = Bench({"aliyun/t": b"id:secret:token"})
    getter = cast("StsToken", bench.open(BACKEND, AliyunSettings("sts_token", "", "", "t", "cn-beijing")))
    arn = "acs:kms:cn-beijing:1234:secret/n"
    bench.wire.answers = [KmsAnswer(200, b'{"SecretName":"n","SecretData":"v"}')] * 2
    with pytest.raises(AgentError) as caught:
        await getter.get("m", {}, bench.soon())
    assert caught.value.code is ErrorCode.KMS_BAD_RESPONSE
    assert (await getter.get(arn, {}, bench.soon())).reveal() == b"v"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("Forbidden.KeyNotFound", ErrorCode.KMS_NOT_FOUND),
        ("Forbidden.SomethingNew", ErrorCode.KMS_DENIED),
        ("InvalidSecurityToken.Expired", ErrorCode.KMS_DENIED),
        ("Throttling.User", ErrorCode.KMS_BUSY),
        ("Rejected.Throttling", ErrorCode.KMS_BUSY),
        ("s3cret", ErrorCode.KMS_BAD_RESPONSE),
    ],
)
def test_the_services_own_codes(said: str, code: ErrorCode) -> None:
    error = refused(KmsAnswer(404, b""), "service", (said,), CODES)
    assert error.code is code
    assert "s3cret" not in error.detail
