"""Envelope secrets, and vault secrets of other providers, with a stub service after cdh.md A.1."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.model import Kms
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.hub import envelope
from agent.hub.kms import registry
from agent.hub.kms.registry import Backends
from agent.hub.sealing import Provider, keygen, seal_envelope, seal_vault
from agent.secret import Secret
from tests.unit.hub import stub_kms
from tests.unit.hub.stub_kms import WORLD
from tests.unit.hub.support import (
    KEY_URI,
    TEST_KEY_PRIVATE,
    VECTOR_E,
    StoredGetter,
    failure,
    jwk,
    refusal,
    resources,
    signed,
    soon,
    unhurried,
    unsealer,
    url64,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import msgspec

KEY_ID = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
PLAINTEXT = b"super-secret-value-42"
PAYLOAD: dict[str, Any] = {
    "version": "0.1.0",
    "type": "envelope",
    "key_id": KEY_ID,
    "encrypted_key": "U1RVQi1LTVMtQkxPQjoAAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHw==",
    "encrypted_data": "DovoczvkSdapB21pIg8IP6I1YzopooDLMnDExvX+6SLMw21pLg==",
    "wrap_type": "A256GCM",
    "iv": "EBESExQVFhcYGRob",
    "provider": "aws",
    "provider_settings": {"region": "us-east-1"},
    "annotations": {},
}
CTR = {
    **PAYLOAD,
    "wrap_type": "A256CTR",
    "iv": "ICEiIyQlJicoKSorLC0uLw==",
    "encrypted_data": "EtPjCzyiY3l/s5znmDTBuMbX3b3/",
}


@pytest.fixture(autouse=True)
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(registry.BACKENDS, "aws", "tests.unit.hub.stub_kms")
    WORLD.held, WORLD.asked, WORLD.fault, WORLD.given = {}, [], None, []
    yield
    WORLD.fault = None


def unsigned(payload: Any) -> str:
    return f"sealed.fakejwsheader.{url64(json.dumps(payload).encode())}.fakesignature"


# --- vectors A.1 -----------------------------------------------------------------------------------
async def test_vector_e(getter: StoredGetter, key_dir: Path) -> None:
    assert await unsealer(getter, key_dir).unseal(VECTOR_E.encode(), soon()) == Secret(PLAINTEXT)
    assert WORLD.asked == [("decrypt us-east-1", KEY_ID, {})]
    assert getter.asked == []


async def test_the_counter_mode_variant(getter: StoredGetter) -> None:
    assert await unsealer(getter).unseal(signed(CTR).encode(), soon()) == Secret(PLAINTEXT)


def test_the_vector_is_what_it_says() -> None:
    part = VECTOR_E.split(".")[2]
    assert json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) == PAYLOAD


# --- what each side is told ------------------------------------------------------------------------
@pytest.mark.parametrize(
    "annotations",
    [
        {},
        {"encryption_context": {"app": "db"}},
        {"iv": "AAAA"},
        {"version_stage": "", "version_id": ""},
        {"a": [1, 2.5, None, True, {"b": "\u00e9"}]},
    ],
)
async def test_annotations_reach_the_service_as_they_are(
    getter: StoredGetter, annotations: dict[str, Any]
) -> None:
    WORLD.held["prod/db"] = b"plain"
    vault = {"version": "0.1.0", "type": "vault", "name": "prod/db", "provider": "AWS"}
    whole = {**vault, "provider_settings": {"region": "eu"}, "annotations": annotations}
    assert await unsealer(getter).unseal(signed(whole).encode(), soon()) == Secret(b"plain")
    sealed = signed({**PAYLOAD, "provider": "Aws", "annotations": annotations})
    assert await unsealer(getter).unseal(sealed.encode(), soon()) == Secret(PLAINTEXT)
    assert WORLD.asked == [("get eu", "prod/db", annotations), ("decrypt us-east-1", KEY_ID, annotations)]


async def test_the_data_key_is_wiped(getter: StoredGetter) -> None:
    await unsealer(getter).unseal(signed(PAYLOAD).encode(), soon())
    await refusal(unsealer(getter), signed({**PAYLOAD, "encrypted_data": "A" * 40}))
    assert [len(key) for key in WORLD.given] == [0, 0]


# --- refusals --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "code"),
    [
        *(({name: None}, ErrorCode.SEALED_MALFORMED) for name in PAYLOAD),
        *(({name: 1}, ErrorCode.SEALED_MALFORMED) for name in PAYLOAD),
        ({"key_id": ""}, ErrorCode.SEALED_MALFORMED),
        ({"encrypted_key": ""}, ErrorCode.SEALED_MALFORMED),
        ({"encrypted_key": "U1RV Qi1L"}, ErrorCode.SEALED_MALFORMED),
        ({"encrypted_key": "U1RVQi1LTVM"}, ErrorCode.SEALED_MALFORMED),
        ({"encrypted_data": ""}, ErrorCode.SEALED_MALFORMED),
        ({"encrypted_data": "AAAA"}, ErrorCode.SEALED_MALFORMED),
        ({"encrypted_data": "____"}, ErrorCode.SEALED_MALFORMED),
        ({"iv": ""}, ErrorCode.SEALED_MALFORMED),
        ({"iv": CTR["iv"]}, ErrorCode.SEALED_MALFORMED),
        ({"iv": "EBESExQVFhcYGRo="}, ErrorCode.SEALED_MALFORMED),
        ({"wrap_type": "A256CTR"}, ErrorCode.SEALED_MALFORMED),
        ({"wrap_type": "A128GCM"}, ErrorCode.SEALED_UNSUPPORTED),
        ({"wrap_type": "a256gcm"}, ErrorCode.SEALED_UNSUPPORTED),
        ({"provider": "kbs"}, ErrorCode.KMS_UNKNOWN),
        ({"provider": "KBS"}, ErrorCode.KMS_UNKNOWN),
        ({"provider": "nobody"}, ErrorCode.KMS_UNKNOWN),
        ({"provider_settings": {"endpoint": "x"}}, ErrorCode.KMS_SETTINGS_INVALID),
        ({"provider_settings": {"region": 1}}, ErrorCode.KMS_SETTINGS_INVALID),
    ],
)
async def test_what_is_wrong_is_found_before_the_service_is_asked(
    getter: StoredGetter, change: dict[str, Any], code: ErrorCode
) -> None:
    assert (await refusal(unsealer(getter), signed({**PAYLOAD, **change}))).code is code
    assert WORLD.asked == []


@pytest.mark.parametrize("missing", PAYLOAD)
async def test_every_member_is_required(getter: StoredGetter, missing: str) -> None:
    payload = {name: value for name, value in PAYLOAD.items() if name != missing}
    assert (await refusal(unsealer(getter), signed(payload))).code is ErrorCode.SEALED_MALFORMED


@pytest.mark.parametrize("position", [0, 20, -1])
async def test_changed_data_gives_nothing(getter: StoredGetter, position: int) -> None:
    data = bytearray(base64.b64decode(PAYLOAD["encrypted_data"]))
    data[position] ^= 1
    changed = {**PAYLOAD, "encrypted_data": base64.b64encode(data).decode()}
    error = await refusal(unsealer(getter), signed(changed))
    assert error.code is ErrorCode.SEALED_DECRYPT_FAILED


@pytest.mark.parametrize("size", [0, 16, 31, 33])
async def test_a_data_key_of_another_size(getter: StoredGetter, size: int) -> None:
    blob = base64.b64encode(stub_kms.PREFIX + bytes(size)).decode()
    error = await refusal(unsealer(getter), signed({**PAYLOAD, "encrypted_key": blob}))
    assert error.code is ErrorCode.SEALED_DECRYPT_FAILED


@pytest.mark.parametrize(
    "code",
    [ErrorCode.KMS_UNREACHABLE, ErrorCode.KMS_DENIED, ErrorCode.KMS_CREDENTIALS_MISSING, ErrorCode.KMS_BUSY],
)
async def test_the_services_reason_stays(getter: StoredGetter, code: ErrorCode) -> None:
    WORLD.fault = code
    vault = {**PAYLOAD, "type": "vault", "name": "prod/db"}
    assert (await refusal(unsealer(getter), signed(PAYLOAD))).code is code
    assert (await refusal(unsealer(getter), signed(vault))).code is code


async def test_an_envelope_that_holds_itself_is_no_answer(getter: StoredGetter) -> None:
    WORLD.held["prod/db"] = b""
    text = signed({**PAYLOAD, "type": "vault", "name": "prod/db"})
    WORLD.held["prod/db"] = text.encode() + b"\n"
    assert (await refusal(unsealer(getter), text)).code is ErrorCode.SEALED_MALFORMED


# --- verification switched off ---------------------------------------------------------------------
async def test_without_a_signature_only_authenticated_data_is_opened(getter: StoredGetter) -> None:
    skipping = unsealer(getter, skip_verification=True)
    assert await skipping.unseal(unsigned(PAYLOAD).encode(), soon()) == Secret(PLAINTEXT)
    WORLD.asked.clear()
    for text in (unsigned(CTR), signed(CTR)):  # a signature nobody looks at is none
        assert (await refusal(skipping, text)).code is ErrorCode.SEALED_UNSUPPORTED
    assert WORLD.asked == []


# --- sealing ---------------------------------------------------------------------------------------
def parts(getter: StoredGetter) -> tuple[Backends, dict[str, msgspec.Raw]]:
    backends = Backends(Kms(), resources(getter), FakeClock())
    return backends, {"region": _raw('"us-east-1"')}


def _raw(text: str) -> msgspec.Raw:
    import msgspec  # noqa: PLC0415

    return msgspec.Raw(text.encode())


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "EdDSA"])
@pytest.mark.parametrize("plaintext", [b"", b"x", b"\x00\xff" * 4000], ids=len)
async def test_sealed_here_opens_here(algorithm: str, plaintext: bytes) -> None:
    private, public = keygen(KEY_URI, algorithm)
    getter = StoredGetter({KEY_URI: public})
    backends, settings = parts(getter)
    text = await seal_envelope(
        Secret(plaintext),
        ("key-1", backends.encrypter("aws", settings)),
        KEY_URI,
        private.reveal(),
        provider=Provider("aws", settings),
        deadline=soon(),
    )
    assert await unsealer(getter).unseal(text.encode(), soon()) == Secret(plaintext)
    annotations = {"iv": "AAAA", "more": {"deep": [1, None]}}
    assert WORLD.asked == [("encrypt us-east-1", "key-1", {}), ("decrypt us-east-1", "key-1", annotations)]
    assert [len(key) for key in WORLD.given] == [0, 0]
    payload = json.loads(base64.urlsafe_b64decode(text.split(".")[2] + "=="))
    assert list(payload) == list(PAYLOAD)  # the order the secret tool writes
    assert payload["wrap_type"] == "A256GCM"


async def test_no_service_is_asked_for_a_key_that_cannot_sign(getter: StoredGetter) -> None:
    backends, settings = parts(getter)
    with pytest.raises(AgentError) as caught:
        await seal_envelope(
            Secret(b"x"),
            ("key-1", backends.encrypter("aws", settings)),
            KEY_URI,
            b"{}",
            provider=Provider("aws", settings),
            deadline=soon(),
        )
    assert caught.value.code is ErrorCode.SEALED_KEY_INVALID
    assert WORLD.asked == []


async def test_two_seals_of_one_plaintext_share_nothing(getter: StoredGetter) -> None:
    one, two = envelope.seal_data(Secret(b"same")), envelope.seal_data(Secret(b"same"))
    assert one.iv != two.iv
    assert one.key != two.key
    assert one.data != two.data


async def test_a_vault_secret_of_another_provider(getter: StoredGetter) -> None:
    WORLD.held["prod/db"] = b"plain"
    provider = Provider("aws", {"region": _raw('"eu"')}, {"version_id": _raw('"7"')})
    text = seal_vault("prod/db", KEY_URI, jwk(TEST_KEY_PRIVATE), provider)
    assert await unsealer(getter).unseal(text.encode(), soon()) == Secret(b"plain")
    assert WORLD.asked == [("get eu", "prod/db", {"version_id": "7"})]


# --- anything at all -------------------------------------------------------------------------------
_values: st.SearchStrategy[Any] = (
    st.none()
    | st.text(max_size=30)
    | st.just({})
    | st.integers()
    | st.binary(max_size=40).map(lambda data: base64.b64encode(data).decode())
    | st.sampled_from(["A256GCM", "A256CTR", "aws", "kbs", "envelope", "vault"])
)


@unhurried
@given(st.dictionaries(st.sampled_from([*PAYLOAD, "x"]), _values), st.booleans())
def test_only_typed_errors_leave_the_parser(change: dict[str, Any], signed_: bool) -> None:
    parse: Callable[[], object] = lambda: envelope.parse_envelope(  # noqa: E731
        json.dumps({**PAYLOAD, **change}).encode(), signed=signed_
    )
    assert failure(parse) in {None, ErrorCode.SEALED_MALFORMED, ErrorCode.SEALED_UNSUPPORTED}


@unhurried
@given(st.binary(max_size=64), st.binary(min_size=32, max_size=32), st.sampled_from([PAYLOAD, CTR]))
def test_only_typed_errors_leave_decryption(data: bytes, key: bytes, payload: dict[str, Any]) -> None:
    changed = json.dumps({**payload, "encrypted_data": base64.b64encode(data).decode()}).encode()
    opened: list[Secret] = []
    code = failure(lambda: opened.append(envelope.parse_envelope(changed, signed=True).open(Secret(key))))
    assert code in {None, ErrorCode.SEALED_MALFORMED, ErrorCode.SEALED_DECRYPT_FAILED}
    assert [len(secret) for secret in opened] == ([len(data)] if payload is CTR else [])
