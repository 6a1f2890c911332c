"""Making sealed secrets; jwcrypto is the judge of what we sign."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jwcrypto import jwk as oracle_jwk  # type: ignore[import-untyped]
from jwcrypto import jws as oracle_jws

from agent.errors import AgentError, ErrorCode
from agent.hub.sealing import key_id, keygen, seal_vault
from agent.secret import Secret
from tests.unit.hub.support import (
    KEY_URI,
    SECOND_KEY_PRIVATE,
    TARGET_URI,
    TEST_KEY,
    TEST_KEY_PRIVATE,
    VECTOR_A,
    VECTOR_B,
    VECTOR_C,
    StoredGetter,
    jwk,
    soon,
    unhurried,
    unsealer,
    url64,
)


@pytest.mark.parametrize(
    ("kid", "key", "sealed"),
    [
        ("test-key", TEST_KEY_PRIVATE, VECTOR_A),
        (KEY_URI, TEST_KEY_PRIVATE, VECTOR_B),
        ("test-key", SECOND_KEY_PRIVATE, VECTOR_C),
    ],
)
def test_sealing_gives_the_vectors(kid: str, key: dict[str, str], sealed: str) -> None:
    assert seal_vault(TARGET_URI, kid, jwk(key)) == sealed


def test_the_payload_has_its_members_in_order() -> None:
    payload = VECTOR_A.split(".")[2]
    ours = seal_vault("kbs://ignored:1/one/2/trois", "test-key", jwk(TEST_KEY_PRIVATE)).split(".")[2]
    assert ours == payload


@unhurried
@given(
    name=st.from_regex(r"[a-z0-9_-]{1,20}", fullmatch=True),
    algorithm=st.sampled_from(["ES256", "ES384", "EdDSA"]),
)
async def test_round_trip_and_oracle(name: str, algorithm: str) -> None:
    private, public = keygen(KEY_URI, algorithm)
    sealed = seal_vault(f"kbs:///default/{name}/1", KEY_URI, private.reveal())
    judge = oracle_jws.JWS()
    judge.deserialize(sealed.removeprefix("sealed."), oracle_jwk.JWK.from_json(public.decode()))
    assert json.loads(judge.payload)["name"] == f"kbs:///default/{name}/1"
    getter = StoredGetter({KEY_URI: public, f"kbs:///default/{name}/1": b"plain"})
    assert await unsealer(getter).unseal(sealed.encode(), soon()) == Secret(b"plain")


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "EdDSA"])
async def test_a_foreign_signature_verifies_here(algorithm: str) -> None:
    private, public = keygen(KEY_URI, algorithm)
    foreign = oracle_jws.JWS(json.dumps(json.loads(_vault_payload())))
    header = json.dumps({"typ": "JWT", "alg": algorithm, "kid": KEY_URI})
    foreign.add_signature(oracle_jwk.JWK.from_json(private.reveal().decode()), None, header)
    getter = StoredGetter({KEY_URI: public, TARGET_URI: b"plain"})
    sealed = f"sealed.{foreign.serialize(compact=True)}"
    assert await unsealer(getter).unseal(sealed.encode(), soon()) == Secret(b"plain")


def _vault_payload() -> str:
    return (
        f'{{"version":"0.1.0","type":"vault","name":"{TARGET_URI}","provider":"kbs",'
        '"provider_settings":{},"annotations":{}}'
    )


def test_key_files_have_the_members_the_secret_tool_writes() -> None:
    private, public = keygen("my-key")
    shared = {"kty", "crv", "x", "y", "alg", "use", "kid"}
    assert set(json.loads(public)) == shared
    assert set(json.loads(private.reveal())) == {*shared, "d"}
    assert json.loads(public)["alg"] == "ES256"
    assert json.loads(public)["use"] == "sig"
    assert public.endswith(b"\n}\n")
    assert key_id(public) == key_id(private.reveal()) == "my-key"
    assert "***" in repr(private)


@pytest.mark.parametrize(
    ("algorithm", "members"),
    [
        ("ES384", {"kty": "EC", "crv": "P-384", "alg": "ES384"}),
        ("EdDSA", {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA"}),
    ],
)
def test_keys_of_other_algorithms(algorithm: str, members: dict[str, str]) -> None:
    private, public = keygen("my-key", algorithm)
    read = json.loads(public)
    assert {name: read[name] for name in members} == members
    assert ("y" in read) == (algorithm != "EdDSA")
    assert json.loads(private.reveal()) == {**read, "d": json.loads(private.reveal())["d"]}
    theirs = oracle_jwk.JWK.from_json(private.reveal().decode())
    assert json.loads(theirs.export_public())["x"] == read["x"]


@pytest.mark.parametrize("algorithm", ["ES256K", "RS256", "HS256", "none", "es256", ""])
def test_other_algorithms_are_not_made(algorithm: str) -> None:
    with pytest.raises(AgentError) as caught:
        keygen("my-key", algorithm)
    assert caught.value.code is ErrorCode.SEALED_UNSUPPORTED


def test_keys_differ() -> None:
    assert keygen("a")[1] != keygen("a")[1]


@pytest.mark.parametrize("kid", ["", "a\nb", "../x", "kbs:///only/two", "http://host/a"])
def test_a_key_id_that_guests_refuse_is_not_made(kid: str) -> None:
    for make in (lambda: keygen(kid), lambda: seal_vault(TARGET_URI, kid, jwk(TEST_KEY_PRIVATE))):
        with pytest.raises(AgentError) as caught:
            make()
        assert caught.value.code is ErrorCode.SEALED_KEY_INVALID


@pytest.mark.parametrize(
    "key",
    [
        TEST_KEY,
        {**TEST_KEY_PRIVATE, "d": SECOND_KEY_PRIVATE["d"]},
        {**TEST_KEY_PRIVATE, "d": url64(bytes(32))},
        {**TEST_KEY_PRIVATE, "d": url64(b"\xff" * 32)},
        {**TEST_KEY_PRIVATE, "d": "AA"},
        {**TEST_KEY_PRIVATE, "crv": "P-521"},
        {**TEST_KEY_PRIVATE, "alg": "ES384"},
        {**TEST_KEY_PRIVATE, "alg": None, "use": "enc"},
    ],
)
def test_a_key_that_cannot_sign(key: dict[str, str]) -> None:
    with pytest.raises(AgentError) as caught:
        seal_vault(TARGET_URI, "test-key", jwk(key))
    assert caught.value.code is ErrorCode.SEALED_KEY_INVALID
    assert key.get("d", "no such text") not in str(caught.value)


def test_a_key_without_an_id() -> None:
    with pytest.raises(AgentError) as caught:
        key_id(jwk(SECOND_KEY_PRIVATE))
    assert caught.value.code is ErrorCode.SEALED_KEY_INVALID


def test_only_resources_can_be_sealed() -> None:
    with pytest.raises(AgentError) as caught:
        seal_vault("hunter2", "test-key", jwk(TEST_KEY_PRIVATE))
    assert caught.value.code is ErrorCode.INVALID_URI
