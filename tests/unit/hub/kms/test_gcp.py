"""Google Cloud: vectors of the RFCs, names that stay in their path, checksums, tokens."""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import cast

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import AgentError, ErrorCode
from agent.hub.encoding import url_decode, url_encode
from agent.hub.kms.gcp import (
    BACKEND,
    Gcp,
    GcpSettings,
    ServiceAccount,
    crc32c,
    rs256,
    secret_url,
    sign_request,
)
from agent.hub.kms.http import KmsAnswer
from tests.unit.hub.kms.wire import Bench
from tests.unit.hub.support import failure, unhurried

# RFC 7515 appendix A.2.
N = (
    "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-"
    "SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS"
    "-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2"
    "ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
)
D = (
    "Eq5xpGnNCivDflJsRQBXHx1hdR1k6Ulwe2JZD50LpXyWPEAeP88vLNO97IjlA7_GQ5sLKMgvfTeXZx9SE-7YwVol2NXOoAJe46sui3"
    "95IW_GO-pWJ1O0BkTGoVEn2bKVRUCgu-GjBVaYLU6f3l9kJfFNS3E0QbVdxzubSu3Mkqzjkn439X0M_V51gfpRLI9JYanrC4D4qAdG"
    "copV_0ZHHzQlBjudU2QvXt4ehNYTCBr6XCLQUShb1juUO1ZdiYoFaFQT5Tw8bGUl_x_jTj3ccPDVZFD9pIuhLhBOneufuBiB4cS98l"
    "2SR_RQyGWSeWjnczT0QU91p1DhOVRuOopznQ"
)
INPUT = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"  # noqa: E501  # as printed
SIGNATURE = (
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJ"
    "dbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN"
    "9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXL"
    "IhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
)
SECRET = "projects/some-project/secrets/db"
OF_A_DOMAIN = "projects/example.com:my-project/secrets/db"
KEY = "projects/some-project/locations/global/keyRings/r/cryptoKeys/k"


@cache
def rfc_key() -> rsa.RSAPrivateKey:
    n, e, d = int.from_bytes(url_decode(N)), 65537, int.from_bytes(url_decode(D))
    p, q = sorted(rsa.rsa_recover_prime_factors(n, e, d), reverse=True)
    parts = (d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q))
    return rsa.RSAPrivateNumbers(p, q, *parts, rsa.RSAPublicNumbers(e, n)).private_key()


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


@cache
def rfc_pem() -> str:
    return pem(rfc_key())


def credentials(**changes: str) -> bytes:
    account = {"client_email": "a@b.iam.gserviceaccount.com", "private_key": rfc_pem()}
    return json.dumps({**account, **changes}).encode()


TOKEN = KmsAnswer(200, b'{"access_token":"t0ken","expires_in":3599,"token_type":"Bearer"}')


def opened(bench: Bench, content: bytes | None = None) -> Gcp:
    bench.files["gcp/credential.json"] = credentials() if content is None else content
    return cast("Gcp", bench.open(BACKEND, GcpSettings()))


# --- vectors --------------------------------------------------------------------------------------
def test_rs256_of_rfc_7515() -> None:
    assert url_encode(rs256(rfc_key(), INPUT.encode())) == SIGNATURE


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"123456789", 0xE3069283),
        (b"", 0),
        # RFC 3720 appendix B.4, read as the little-endian words that they are.
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_crc32c(data: bytes, checksum: int) -> None:
    assert crc32c(data) == checksum


def test_a_request_for_a_token() -> None:
    account = ServiceAccount("a@b", pem(rfc_key()), "key-1")
    head, claims, _ = sign_request(account, 1_790_000_000.9).split(".")
    assert msgspec.json.decode(url_decode(head)) == {"alg": "RS256", "typ": "JWT", "kid": "key-1"}
    assert msgspec.json.decode(url_decode(claims)) == {
        "iss": "a@b",
        "scope": "https://www.googleapis.com/auth/cloud-platform",
        "aud": "https://oauth2.googleapis.com/token",
        "iat": 1_790_000_000,
        "exp": 1_790_003_600,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"token_uri": "https://evil.example/token"},
        {"private_key": "no key"},
        {"private_key": ""},
        {"private_key": pem(ec.generate_private_key(ec.SECP256R1()))},
    ],
)
async def test_credentials_that_cannot_sign(changes: dict[str, str]) -> None:
    bench = Bench()
    with pytest.raises(AgentError) as caught:
        await opened(bench, credentials(**changes)).get(SECRET, {}, bench.soon())
    assert caught.value.code is ErrorCode.KMS_CREDENTIALS_INVALID
    assert bench.wire.sent == []


# --- names ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "version", "url"),
    [
        (SECRET, "latest", f"https://secretmanager.googleapis.com/v1/{SECRET}/versions/latest:access"),
        (
            OF_A_DOMAIN,
            "latest",
            f"https://secretmanager.googleapis.com/v1/{OF_A_DOMAIN}/versions/latest:access",
        ),
        (
            "projects/a.b-c.co.uk:x/locations/us-east1/secrets/s/versions/2",
            "1",
            (
                "https://secretmanager.us-east1.rep.googleapis.com/v1/projects/a.b-c.co.uk:x/locations/us-east1"
                "/secrets/s/versions/2:access"
            ),
        ),
        (f"{SECRET}/versions/3", "9", f"https://secretmanager.googleapis.com/v1/{SECRET}/versions/3:access"),
        (
            "projects/123/locations/us-east1/secrets/s",
            "1",
            (
                "https://secretmanager.us-east1.rep.googleapis.com/v1/projects/123/locations/us-east1/secrets/s"
                "/versions/1:access"
            ),
        ),
    ],
)
def test_names_of_secrets(name: str, version: str, url: str) -> None:
    assert secret_url(name, version) == url


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("db", "latest"),
        ("projects/p/secrets/db", "latest"),
        ("projects/some-project/secrets/../x", "latest"),
        ("projects/some-project/secrets/a?b", "latest"),
        ("projects/some-project/secrets/a%2f", "latest"),
        (f"{SECRET}\n", "latest"),
        (SECRET, "../1"),
        (SECRET, ""),
        ("projects/some-project/locations/-evil/secrets/db", "1"),
        ("projects/some-project/secrets/ünicode", "1"),
        ("projects/example.com:/secrets/db", "1"),
        ("projects/:my-project/secrets/db", "1"),
        ("projects/example:my-project/secrets/db", "1"),
        ("projects/example..com:my-project/secrets/db", "1"),
        ("projects/example.com:my:project/secrets/db", "1"),
        ("projects/example.com:../secrets/db", "1"),
        ("projects/..:my-project/secrets/db", "1"),
        ("projects/Example.com:my-project/secrets/db", "1"),
        ("projects/example.com%3Amy-project/secrets/db", "1"),
    ],
)
def test_names_that_are_none(name: str, version: str) -> None:
    with pytest.raises(AgentError) as caught:
        secret_url(name, version)
    assert caught.value.code is ErrorCode.KMS_SETTINGS_INVALID


@unhurried
@given(st.text(max_size=60), st.text(max_size=20))
def test_any_name_stays_in_its_path(name: str, version: str) -> None:
    for wanted in (
        name,
        f"{SECRET}{name}",
        f"projects/some-project/locations/{name}/secrets/s",
        f"projects/{name}:my-project/secrets/s",
        f"projects/example.com:{name}/secrets/s",
    ):
        code = failure(lambda wanted=wanted: secret_url(wanted, version))  # type: ignore[misc]
        assert code in {None, ErrorCode.KMS_SETTINGS_INVALID}
        if code is None:
            url = secret_url(wanted, version)
            assert url.isascii()
            assert not set(url) & set("?#%@ \\")
            assert "/../" not in url


@pytest.mark.parametrize(
    "key",
    [
        "k",
        KEY.replace("some-project", "example.com:"),
        f"{KEY}/cryptoKeyVersions/1",
        f"{KEY}:destroy",
        f"{KEY}/../x",
        "",
    ],
)
async def test_keys_that_are_none(key: str) -> None:
    bench = Bench()
    with pytest.raises(AgentError) as caught:
        await opened(bench).decrypt(b"c", key, {}, bench.soon())
    assert caught.value.code is ErrorCode.KMS_SETTINGS_INVALID
    assert bench.wire.sent == []


async def test_a_key_of_a_domains_project() -> None:
    bench = Bench()
    key = KEY.replace("some-project", "example.com:my-project")
    body = b'{"plaintext":"YWJj","plaintextCrc32c":"910901175"}'
    bench.wire.answers = [TOKEN, KmsAnswer(200, body)]
    assert (await opened(bench).decrypt(b"c", key, {}, bench.soon())).reveal() == b"abc"
    assert bench.wire.sent[1].url == f"https://cloudkms.googleapis.com/v1/{key}:decrypt"


# --- answers --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "payload",
    [
        {"data": "YWJj", "dataCrc32c": "1"},
        {"data": "YWJj", "dataCrc32c": 910901175},
        {"data": "YWJ", "dataCrc32c": "1"},
        {"data": "YWJj ", "dataCrc32c": "910901175"},
        {"data": base64.b64encode(bytes(100_000)).decode(), "dataCrc32c": "1"},
    ],
)
async def test_a_damaged_secret_is_none(payload: dict[str, object]) -> None:
    bench = Bench()
    body = json.dumps({"name": f"{SECRET}/versions/1", "payload": payload}).encode()
    bench.wire.answers = [TOKEN, KmsAnswer(200, body)]
    with pytest.raises(AgentError) as caught:
        await opened(bench).get(SECRET, {}, bench.soon())
    assert caught.value.code is ErrorCode.KMS_BAD_RESPONSE


async def test_a_secret_with_its_checksum() -> None:
    bench = Bench()
    body = b'{"name":"n","payload":{"data":"YWJj","dataCrc32c":"910901175"}}'
    bench.wire.answers = [TOKEN, KmsAnswer(200, body)]
    assert (await opened(bench).get(SECRET, {}, bench.soon())).reveal() == b"abc"
    assert bench.wire.sent[1].headers["Authorization"] == "Bearer t0ken"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (KmsAnswer(400, b'{"error":"invalid_grant","error_description":"x"}'), ErrorCode.KMS_DENIED),
        (KmsAnswer(503, b"<html>"), ErrorCode.KMS_BUSY),
        (KmsAnswer(404, b"<html>a proxy's page"), ErrorCode.KMS_BAD_RESPONSE),
        (
            KmsAnswer(200, b'{"access_token":"t","expires_in":1,"token_type":"mac"}'),
            ErrorCode.KMS_BAD_RESPONSE,
        ),
        (KmsAnswer(200, b"{}"), ErrorCode.KMS_BAD_RESPONSE),
    ],
)
async def test_a_token_service_that_gives_none(answer: KmsAnswer, code: ErrorCode) -> None:
    bench = Bench()
    bench.wire.answers = [answer]
    with pytest.raises(AgentError) as caught:
        await opened(bench).get(SECRET, {}, bench.soon())
    assert caught.value.code is code


async def test_a_proxys_404_is_no_missing_secret() -> None:
    bench = Bench()
    bench.wire.answers = [TOKEN, KmsAnswer(404, b"<html>not here</html>")]
    with pytest.raises(AgentError) as caught:
        await opened(bench).get(SECRET, {}, bench.soon())
    assert caught.value.code is ErrorCode.KMS_BAD_RESPONSE


@unhurried
@given(status=st.sampled_from([200, 400, 401, 403, 404, 429, 500]), body=st.binary(max_size=60))
async def test_any_answer(status: int, body: bytes) -> None:
    bench = Bench()
    bench.wire.answers = [TOKEN, KmsAnswer(status, body), TOKEN, KmsAnswer(status, body)]
    with pytest.raises(AgentError) as caught:
        await opened(bench).get(SECRET, {}, bench.soon())
    assert caught.value.code.name.startswith("KMS_")
