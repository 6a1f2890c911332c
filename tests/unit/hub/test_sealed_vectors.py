"""The sealed secrets that Kata's own tests deploy (kata_integration.md 2.3).

Public data of kata-containers, tests/integration/kubernetes/confidential_common.sh: the JWK uploaded there as
``kbs:///default/signing-key/sealed-secret``, and three strings. Only their signatures cannot be made here.
"""

from __future__ import annotations

import pytest

from agent.errors import ErrorCode
from agent.secret import Secret
from tests.unit.hub.support import TEST_KEY, StoredGetter, jwk, refusal, soon, unsealer, url64

KID = "kbs:///default/signing-key/sealed-secret"
JWK = (
    b'{"alg":"ES256","crv":"P-256","kid":"sealed-secret-test-key","kty":"EC","use":"sig",'
    b'"x":"4jH376AuwTUCIx65AJ_56D7SZzWf7sGcEA7_Csq21UM","y":"rjdceysnSa5ZfzWOPGCURMUuHndxBAGUu4ISTIVN0yA"}'
)
HEADER = f'{{"b64":true,"alg":"ES256","kid":"{KID}"}}'
SIGNATURES = {
    "kbs:///default/sealed-secret/test": (
        "ZI2fTv5ramHqHQa9DKBFD5hlJ_Mjf6cEIcpsNGshpyhEiKklML0abfH600TD7LAFHf53oDIJmEcVsDtJ20UafQ"
    ),
    "kbs:///default/ngc-api-key/instruct": (
        "wpqvVFUaQymqgf54h70shZWDpk2NLW305wALz09YF0GKFBKBQiQB2sRwvn9Jk_rSju3YGLYxPO2Ub8qUbiMCuA"
    ),
    "kbs:///default/ngc-api-key/embedqa": (
        "4C1uqtVXi_qZT8vh_yZ4KpsRdgr2s4hU6ElKj18Hq1DJi_Iji61yuKsS6S1jWdb7drdoKKACvMD6RmCd85SJOQ"
    ),
}


def string(uri: str) -> str:
    payload = (
        f'{{"version":"0.1.0","type":"vault","name":"{uri}","provider":"kbs",'
        '"provider_settings":{},"annotations":{}}'
    )
    return f"sealed.{url64(HEADER.encode())}.{url64(payload.encode())}.{SIGNATURES[uri]}"


STRINGS = [(uri, string(uri)) for uri in SIGNATURES]


@pytest.mark.parametrize(("uri", "text"), STRINGS)
async def test_katas_strings_open(uri: str, text: str) -> None:
    getter = StoredGetter({KID: JWK, uri: b"plain"})
    assert await unsealer(getter, trusted_kids=(KID,)).unseal(text.encode(), soon()) == Secret(b"plain")
    assert getter.asked == [KID, uri]


@pytest.mark.parametrize(("uri", "text"), STRINGS)
async def test_katas_strings_with_another_key(uri: str, text: str) -> None:
    getter = StoredGetter({KID: jwk(TEST_KEY), uri: b"plain"})
    assert (await refusal(unsealer(getter), text)).code is ErrorCode.SEALED_SIGNATURE_INVALID
    assert getter.asked == [KID]
