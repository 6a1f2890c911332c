"""Signatures of AWS's published test suite ("aws-sig-v4-test-suite"), and what a signature depends on."""

from __future__ import annotations

import string

import pytest

from agent.hub.kms.sigv4 import Key, Scope, sign

KEY = Key("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
SCOPE = Scope("us-east-1", "service", 1_440_938_160.0)  # 20150830T123600Z
URL = "https://example.amazonaws.com/"
UNRESERVED = f"-._~{string.digits}{string.ascii_uppercase}{string.ascii_lowercase}"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
SESSION_TOKEN = (
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflf"
    "KD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd"
    "8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3i"
    "SIlTJabIQwj2ICCR/oLxBA=="
)

SUITE = {
    "get-vanilla": ("GET", URL, {}, b"", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    "get-vanilla-query-order-key": (
        "GET",
        f"{URL}?Param2=value2&Param1=value1",
        {},
        b"",
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    "get-vanilla-query-unreserved": (
        "GET",
        f"{URL}?{UNRESERVED}={UNRESERVED}",
        {},
        b"",
        "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
    ),
    "get-unreserved": (
        "GET",
        f"{URL}{UNRESERVED}",
        {},
        b"",
        "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
    ),
    "get-header-value-trim": (
        "GET",
        URL,
        {"My-Header1": " value1", "My-Header2": ' "a   b   c"'},
        b"",
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
    ),
    "post-vanilla": (
        "POST",
        URL,
        {},
        b"",
        "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
    ),
    "post-header-key-sort": (
        "POST",
        URL,
        {"My-Header1": "value1"},
        b"",
        "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
    ),
    "post-x-www-form-urlencoded": (
        "POST",
        URL,
        FORM,
        b"Param1=value1",
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ),
}


def authorization(names: str, signature: str) -> str:
    return (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders={names}, Signature={signature}"
    )


@pytest.mark.parametrize("case", SUITE)
def test_the_published_suite(case: str) -> None:
    method, url, headers, body, signature = SUITE[case]
    signed = sign(method, url, headers, body, key=KEY, scope=SCOPE)
    names = ";".join(sorted({name.lower() for name in headers} | {"host", "x-amz-date"}))
    assert signed["Authorization"] == authorization(names, signature)
    assert signed["X-Amz-Date"] == "20150830T123600Z"
    assert headers.items() <= signed.items()


def test_the_published_suite_with_a_session_token() -> None:  # post-sts-header-before
    key = Key(KEY.access_key_id, KEY.secret_access_key, SESSION_TOKEN)
    signed = sign("POST", URL, {}, b"", key=key, scope=SCOPE)
    assert signed["X-Amz-Security-Token"] == SESSION_TOKEN
    assert signed["Authorization"] == authorization(
        "host;x-amz-date;x-amz-security-token",
        "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
    )


def test_a_signature_is_of_everything() -> None:
    def signature(method: str = "POST", url: str = URL, body: bytes = b"{}", *, scope: Scope = SCOPE) -> str:
        target = {"X-Amz-Target": "TrentService.Decrypt"}
        return sign(method, url, target, body, key=KEY, scope=scope)["Authorization"].rpartition("=")[2]

    different = {
        signature(),
        signature("PUT"),
        signature(url="https://other.amazonaws.com/"),
        signature(url=f"{URL}?a=b"),
        signature(body=b"{ }"),
        signature(scope=Scope("us-east-2", SCOPE.service, SCOPE.wall)),
        signature(scope=Scope(SCOPE.region, "kms", SCOPE.wall)),
        signature(scope=Scope(SCOPE.region, SCOPE.service, SCOPE.wall + 1)),
    }
    assert len(different) == 8
    assert signature() in different


def test_a_path_whose_encoding_is_a_matter_of_opinion_is_refused() -> None:
    with pytest.raises(ValueError, match="unreserved"):
        sign("GET", f"{URL}a%20b", {}, b"", key=KEY, scope=SCOPE)


def test_a_key_does_not_print() -> None:
    assert KEY.secret_access_key not in repr(KEY)
