"""Which key a sealed secret may name, and what its header may say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import limits
from agent.errors import ErrorCode
from agent.hub import jwk as keys
from agent.hub.sealing import keygen
from agent.secret import Secret
from tests.unit.hub import support
from tests.unit.hub.support import (
    KEY_URI,
    PLAINTEXT,
    SECOND_KEY_PRIVATE,
    TARGET_URI,
    TEST_KEY,
    TEST_KEY_PRIVATE,
    VECTOR_A,
    VECTOR_B,
    StoredGetter,
    failure,
    jwk,
    refusal,
    signed,
    soon,
    unhurried,
    unsealer,
    url64,
)

if TYPE_CHECKING:
    from pathlib import Path


# --- the header ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "alg", ["none", "HS256", "ES512", "RS256", "es256", "", "ES256K", "Ed25519", "eddsa"]
)
async def test_the_algorithm_is_settled_before_the_key_is_fetched(getter: StoredGetter, alg: str) -> None:
    error = await refusal(unsealer(getter), signed(header={"alg": alg, "kid": KEY_URI}))
    assert error.code is ErrorCode.SEALED_UNSUPPORTED
    assert getter.asked == []


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"crit": ["exp"]}, ErrorCode.SEALED_UNSUPPORTED),
        ({"crit": []}, ErrorCode.SEALED_UNSUPPORTED),
        ({"crit": None}, ErrorCode.SEALED_UNSUPPORTED),
        ({"b64": False}, ErrorCode.SEALED_UNSUPPORTED),
        ({"b64": "true"}, ErrorCode.SEALED_UNSUPPORTED),
        ({"b64": 1}, ErrorCode.SEALED_UNSUPPORTED),
        ({"kid": None}, ErrorCode.SEALED_MALFORMED),
        ({"kid": 1}, ErrorCode.SEALED_MALFORMED),
        ({"alg": None}, ErrorCode.SEALED_MALFORMED),
    ],
)
async def test_header_members_that_are_refused(
    getter: StoredGetter, more: dict[str, Any], code: ErrorCode
) -> None:
    error = await refusal(unsealer(getter), signed(header={"alg": "ES256", "kid": KEY_URI, **more}))
    assert error.code is code
    assert getter.asked == []


@pytest.mark.parametrize("missing", ["alg", "kid"])
async def test_required_header_members(getter: StoredGetter, missing: str) -> None:
    header = {"alg": "ES256", "kid": KEY_URI}
    del header[missing]
    assert (await refusal(unsealer(getter), signed(header=header))).code is ErrorCode.SEALED_MALFORMED


@pytest.mark.parametrize("more", [{"b64": True}, {"typ": "JOSE"}, {"jwk": dict(TEST_KEY)}, {"x5c": []}])
async def test_header_members_that_are_tolerated(getter: StoredGetter, more: dict[str, Any]) -> None:
    text = signed(header={"b64": True, "alg": "ES256", "kid": KEY_URI, **more})
    assert await unsealer(getter).unseal(text.encode(), soon()) == Secret(PLAINTEXT)


async def test_a_key_in_the_header_is_not_used(getter: StoredGetter) -> None:
    public = {name: value for name, value in SECOND_KEY_PRIVATE.items() if name != "d"}
    text = signed(header={"alg": "ES256", "kid": KEY_URI, "jwk": public}, key=SECOND_KEY_PRIVATE)
    assert (await refusal(unsealer(getter), text)).code is ErrorCode.SEALED_SIGNATURE_INVALID


# --- the key ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "kid",
    [
        "",
        "x" * 1025,
        "a" * 256,
        "test\nkey",
        "test\0key",
        "tést",
        "/etc/passwd",
        "../test-key",
        "a/../test-key",
        "./test-key",
        "a//b",
        "test-key/",
        "http://kbs/default/key/1",
        "kbs://",
        "kbs:///default/key/..",
        "kbs:///default/key/%2e%2e",
        "kbs:///only/two",
        "kbs+:///a/b/c",
        "kbs:default",
    ],
)
async def test_key_ids_that_lead_nowhere(getter: StoredGetter, key_dir: Path, kid: str) -> None:
    error = await refusal(unsealer(getter, key_dir), signed(header={"alg": "ES256", "kid": kid}))
    assert error.code is ErrorCode.SEALED_KEY_INVALID
    assert getter.asked == []


@pytest.mark.parametrize("kid", ["other-key", "folder/other-key"])
async def test_a_missing_key_file(getter: StoredGetter, key_dir: Path, kid: str) -> None:
    text = signed(header={"alg": "ES256", "kid": kid})
    assert (await refusal(unsealer(getter, key_dir), text)).code is ErrorCode.SEALED_KEY_UNKNOWN
    assert (await refusal(unsealer(getter), text)).code is ErrorCode.SEALED_KEY_UNKNOWN


async def test_a_key_file_in_a_sub_folder(getter: StoredGetter, key_dir: Path) -> None:
    (key_dir / "team").mkdir()
    support.write(key_dir / "team" / "key", jwk(TEST_KEY))
    text = signed(header={"alg": "ES256", "kid": "team/key"})
    assert await unsealer(getter, key_dir).unseal(text.encode(), soon()) == Secret(PLAINTEXT)


async def test_a_planted_link_is_not_followed(getter: StoredGetter, key_dir: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    support.write(outside, jwk(TEST_KEY))
    (key_dir / "linked").symlink_to(outside)
    error = await refusal(unsealer(getter, key_dir), signed(header={"alg": "ES256", "kid": "linked"}))
    assert error.code is ErrorCode.FILE_UNSAFE


async def test_a_folder_is_no_key(getter: StoredGetter, key_dir: Path) -> None:
    (key_dir / "team").mkdir()
    error = await refusal(unsealer(getter, key_dir), signed(header={"alg": "ES256", "kid": "team"}))
    assert error.code is ErrorCode.FILE_UNSAFE


async def test_a_key_file_that_others_may_write(getter: StoredGetter, key_dir: Path) -> None:
    support.write(key_dir / "test-key", jwk(TEST_KEY), mode=0o666)
    assert (await refusal(unsealer(getter, key_dir), VECTOR_A)).code is ErrorCode.FILE_UNSAFE


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"[]",
        b"not json",
        b"-----BEGIN PUBLIC KEY-----",
        jwk({**TEST_KEY, "kty": "RSA"}),
        jwk({**TEST_KEY, "crv": "P-384"}),
        jwk({**TEST_KEY, "crv": "secp256k1"}),
        jwk({**TEST_KEY, "x": TEST_KEY["y"]}),
        jwk({**TEST_KEY, "x": url64(bytes(32)), "y": url64(bytes(32))}),
        jwk({**TEST_KEY, "x": url64(b"\xff" * 32)}),
        jwk({**TEST_KEY, "x": TEST_KEY["x"] + "="}),
        jwk({**TEST_KEY, "x": url64(bytes(31))}),
        jwk({**TEST_KEY, "y": url64(bytes(33))}),
        jwk({**TEST_KEY, "y": ""}),
        jwk({name: value for name, value in TEST_KEY.items() if name != "y"}),
        jwk({**TEST_KEY, "alg": "ES384"}),
        jwk({**TEST_KEY, "alg": "ECDH-ES"}),
        jwk({**{name: value for name, value in TEST_KEY.items() if name != "alg"}, "use": "enc"}),
        jwk({**TEST_KEY, "kty": "OKP", "crv": "P-256"}),
        jwk({**TEST_KEY, "kty": "OKP", "crv": "Ed448"}),
        jwk({"kty": "oct", "k": "c2VjcmV0"}),
        jwk(TEST_KEY) + b" " * limits.JWK_MAX,
    ],
    ids=range(22),
)
async def test_keys_that_are_none(getter: StoredGetter, key: bytes) -> None:
    getter.held[KEY_URI] = key
    assert (await refusal(unsealer(getter), VECTOR_B)).code is ErrorCode.SEALED_KEY_INVALID
    assert getter.asked == [KEY_URI]


async def test_an_algorithm_of_ours_outweighs_use(getter: StoredGetter) -> None:
    # Key generators ask for both; upstream's hub takes such a key.
    getter.held[KEY_URI] = jwk({**TEST_KEY, "use": "enc"})
    assert await unsealer(getter).unseal(VECTOR_B.encode(), soon()) == Secret(PLAINTEXT)


async def test_a_missing_key_is_told_from_a_missing_plaintext(getter: StoredGetter) -> None:
    del getter.held[TARGET_URI]
    assert (await refusal(unsealer(getter), VECTOR_B)).code is ErrorCode.RESOURCE_NOT_FOUND
    del getter.held[KEY_URI]
    assert (await refusal(unsealer(getter), VECTOR_B)).code is ErrorCode.SEALED_KEY_UNKNOWN


@pytest.mark.parametrize("code", [ErrorCode.RESOURCE_DENIED, ErrorCode.KBS_UNREACHABLE])
async def test_the_brokers_reason_for_not_giving_the_key_stays(getter: StoredGetter, code: ErrorCode) -> None:
    getter.fault = code
    assert (await refusal(unsealer(getter), VECTOR_B)).code is code


@pytest.mark.parametrize(
    ("r", "s"),
    [(0, 0), (0, 1), (1, 0), (2**256 - 1, 1), (1, 2**256 - 1)],
)
async def test_signature_numbers_out_of_range(getter: StoredGetter, r: int, s: int) -> None:
    head = VECTOR_B.rpartition(".")[0]
    error = await refusal(unsealer(getter), f"{head}.{url64(r.to_bytes(32) + s.to_bytes(32))}")
    assert error.code is ErrorCode.SEALED_SIGNATURE_INVALID


# --- trusted key ids -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "rule",
    [
        KEY_URI,
        "kbs:///default/sealed-secret-key/*",
        "kbs:///default/sealed-secret-key/",
        "kbs:///default/*",
        "*",
    ],
)
async def test_a_listed_key_is_used(getter: StoredGetter, rule: str) -> None:
    unsealing = unsealer(getter, trusted_kids=("other", rule))
    assert await unsealing.unseal(VECTOR_B.encode(), soon()) == Secret(PLAINTEXT)


@pytest.mark.parametrize(
    "rule",
    [
        "kbs:///default/sealed-secret-key/",
        "kbs:///default/sealed-secret-key/1",
        "kbs:///default/sealed-secret-key/*",
    ],
)
@pytest.mark.parametrize(
    "kid",
    [
        "test-key",
        "kbs:///default/other/1",
        "kbs://default/sealed-secret-key/1/x",
        "kbs:///default/sealed-secret-key2/1",
        "kbs+default:///sealed-secret-key/1",
    ],
)
async def test_other_keys_are_refused_before_any_fetch(
    getter: StoredGetter, key_dir: Path, rule: str, kid: str
) -> None:
    text = signed(header={"alg": "ES256", "kid": kid})
    error = await refusal(unsealer(getter, key_dir, trusted_kids=(rule,)), text)
    assert error.code is ErrorCode.SEALED_KEY_UNTRUSTED
    assert getter.asked == []


@pytest.mark.parametrize(
    "kid", ["kbs://elsewhere:8080/default/sealed-secret-key/1", "KBS+resource://" + KEY_URI[6:]]
)
async def test_a_host_in_the_key_id_changes_nothing(getter: StoredGetter, kid: str) -> None:
    text = signed(header={"alg": "ES256", "kid": kid})
    unsealing = unsealer(getter, trusted_kids=(KEY_URI,))
    assert await unsealing.unseal(text.encode(), soon()) == Secret(PLAINTEXT)
    assert getter.asked[0] == KEY_URI


async def test_a_prefix_rule_cannot_be_climbed_out_of(getter: StoredGetter) -> None:
    getter.held["kbs:///default/attacker/1"] = jwk(TEST_KEY)
    unsealing = unsealer(getter, trusted_kids=("kbs:///default/trusted/*",))
    for kid in ("kbs:///default/trusted/../attacker/1", "kbs:///default/trusted/%2e%2e%2fattacker"):
        error = await refusal(unsealing, signed(header={"alg": "ES256", "kid": kid}))
        assert error.code is ErrorCode.SEALED_KEY_INVALID
    assert getter.asked == []


# --- anything at all -------------------------------------------------------------------------------
@unhurried
@given(
    st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y", "d", "z", "alg", "use"]),
        st.none()
        | st.text(max_size=20)
        | st.binary(min_size=30, max_size=34).map(url64)
        | st.sampled_from(["EC", "OKP", "P-256", "P-384", "Ed25519", "ES256", "EdDSA"]),
    )
)
def test_only_typed_errors_leave_the_key_parser(change: dict[str, Any]) -> None:
    text = json.dumps({**TEST_KEY_PRIVATE, **change}).encode()
    assert failure(lambda: keys.verifying_key(keys.read(text))) in {None, ErrorCode.SEALED_KEY_INVALID}
    assert failure(lambda: keys.signing_key(keys.read(text))) in {None, ErrorCode.SEALED_KEY_INVALID}


def test_a_key_does_not_print() -> None:
    assert TEST_KEY_PRIVATE["d"] not in repr(keys.read(jwk(TEST_KEY_PRIVATE)))


# --- the key settles the algorithm -----------------------------------------------------------------
ALGORITHMS = ["ES256", "ES384", "EdDSA"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("said", ALGORITHMS)
async def test_the_header_cannot_choose_another_algorithm(
    getter: StoredGetter, algorithm: str, said: str
) -> None:
    private, public = keygen(KEY_URI, algorithm)
    getter.held[KEY_URI] = public
    text = signed(header={"alg": said, "kid": KEY_URI}, key=json.loads(private.reveal()))
    if said == algorithm:
        assert await unsealer(getter).unseal(text.encode(), soon()) == Secret(PLAINTEXT)
        return
    error = await refusal(unsealer(getter), text)
    # A signature of another size is no key's; one of the same size meets a key for something else.
    assert error.code in {ErrorCode.SEALED_MALFORMED, ErrorCode.SEALED_KEY_INVALID}
    assert getter.asked == ([KEY_URI] if error.code is ErrorCode.SEALED_KEY_INVALID else [])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_every_algorithm_notices_a_change(getter: StoredGetter, algorithm: str) -> None:
    private, public = keygen(KEY_URI, algorithm)
    getter.held[KEY_URI] = public
    text = signed(header={"alg": algorithm, "kid": KEY_URI}, key=json.loads(private.reveal()))
    head, _, signature = text.rpartition(".")
    for position in (0, 20, 50, -2):
        letters = list(signature)
        letters[position] = "A" if letters[position] != "A" else "B"
        error = await refusal(unsealer(getter), f"{head}.{''.join(letters)}")
        assert error.code is ErrorCode.SEALED_SIGNATURE_INVALID
    assert TARGET_URI not in getter.asked


def test_rfc_8037_a_signature_of_ed25519() -> None:
    """RFC 8037 appendix A.1, A.4: private key, message and signature."""
    key = {
        "kty": "OKP",
        "crv": "Ed25519",
        "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    }
    signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    message = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
    private = keys.signing_key(keys.read(jwk(key)))
    assert url64(private.sign(message)) == signature
    keys.verifying_key(keys.read(jwk(key))).verify(private.sign(message), message)
