"""Image layer keys as image-rs, containerd and skopeo ask for them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from hypothesis import given
from hypothesis import strategies as st

from agent.config import limits
from agent.config.model import Kms
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.hub.image_keys import build_protocol_input, unwrap_key, wrap
from agent.hub.image_packets import parse_packet, parse_protocol_input
from agent.hub.kms.registry import Backends
from tests.unit.hub import support
from tests.unit.hub.support import StoredGetter, failure, soon, unhurried

KID = "kbs:///default/image-kek/1"
KEK = bytes(range(0x80, 0xA0))

# cdh.md A.3
PRIVATE = (
    b'{"symkey":"QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8=","digest":"sha256:dff90087e2a95f1c093cf40e7be6ef4e99'
    b'8e21b4ea38d0b494ea2fdb2576fcfe","cipheroptions":{"nonce":"YGFiY2RlZmdoaWprbG1ubw=="}}'
)
PACKET = (
    b'{"kid":"kbs:///default/image-kek/1","wrapped_data":"ey0DSTHL9klcVSTnwUfJ1514QONE7Mt+ldDKb0Xnnoj/Ony/suvEh8ijjtnFs1'
    b"gCw0QjG4yPwcfedemlKJC05YWUHnJ8qz0ri3TKeE5UboSa/9JvSYtMDkWvWHnEBS82DJ36MzEMf5cOUZZdC+L3WF/AwimJzBB9wlR4F/UUsYzwW4zf"
    b'3kArgG/2yijYBUTOeuU2/BBtJzhNkXBVQur9IC9REd0sbhk+YDlus4F3y3YwCYP5LKKZkdx9ra9xF5JjlaqqRq7OOHMDO0pCOtcBUE4=","iv":"oKGi'
    b'o6Slpqeoqaqr","wrap_type":"A256GCM"}'
)
# cdh.md A.5
REQUEST = (
    b'{"op":"keyunwrap","keywrapparams":{"ec":null,"optsdata":null},"keyunwrapparams":{"dc":{"Parameters":{}},"annotation":'
    b'"eyJraWQiOiJrYnM6Ly8vZGVmYXVsdC9pbWFnZS1rZWsvMSIsIndyYXBwZWRfZGF0YSI6ImV5MERTVEhMOWtsY1ZTVG53VWZKMTUxNFFPTkU3TXQrbGRE'
    b"S2IwWG5ub2ovT255L3N1dkVoOGlqanRuRnMxZ0N3MFFqRzR5UHdjZmVkZW1sS0pDMDVZV1VIbko4cXowcmkzVEtlRTVVYm9TYS85SnZTWXRNRGtXdldIbk"
    b"VCUzgyREozNk16RU1mNWNPVVpaZEMrTDNXRi9Bd2ltSnpCQjl3bFI0Ri9VVXNZendXNHpmM2tBcmdHLzJ5aWpZQlVUT2V1VTIvQkJ0SnpoTmtYQlZRdXI5"
    b"SUM5UkVkMHNiaGsrWURsdXM0RjN5M1l3Q1lQNUxLS1prZHg5cmE5eEY1SmpsYXFxUnE3T09ITURPMHBDT3RjQlVFND0iLCJpdiI6Im9LR2lvNlNscHFlb3"
    b'FhcXIiLCJ3cmFwX3R5cGUiOiJBMjU2R0NNIn0="}}'
)
# cdh.md A.4; the wrapped data follows from these three.
FIXTURE_KID = "kbs:///default/key/1"
FIXTURE_KEK = bytes.fromhex("d99b7705b0ba7a168295b3a3367270b0dd9b371bf514ca8b9ba7f0a33711daea")
FIXTURE_IV = "3PQMqtjbR4hxCr83"
FIXTURE_PRIVATE = (
    b'{"symkey":"1jL2jJV0Oyz2nmPkLtqulW6cKcpIUN5FpILcVnP5Uqs=","digest":"sha256:18be1897f9402f27c8c0eba7c86e0c00f5656db6'
    b'2961b5949d55f9565c42c6e7","cipheroptions":{"nonce":"r10F9oaCu+nWFXfod3l83g=="}}'
)


@pytest.fixture
def getter() -> StoredGetter:
    return StoredGetter({KID: KEK, FIXTURE_KID: FIXTURE_KEK})


async def ask(getter: StoredGetter, protocol_input: bytes) -> bytes:
    resources = support.resources(getter)
    backends = Backends(Kms(), resources, FakeClock())
    return (await unwrap_key(protocol_input, resources, soon(), backends)).reveal()


async def refusal(getter: StoredGetter, protocol_input: bytes) -> ErrorCode:
    with pytest.raises(AgentError) as caught:
        await ask(getter, protocol_input)
    return caught.value.code


def optsdata(answer: bytes) -> bytes:
    return bytes(json.loads(answer)["keyunwrapresults"]["optsdata"])


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def request(**change: Any) -> bytes:
    """The request for the packet of A.3 with some members changed; None leaves one out."""
    packet = {**json.loads(PACKET), **change}
    return build_protocol_input(json.dumps({k: v for k, v in packet.items() if v is not None}).encode())


def ctr_request(plaintext: bytes, kek: bytes = KEK, iv: bytes = bytes(range(16))) -> bytes:
    data = Cipher(AES(kek), CTR(iv)).encryptor().update(plaintext)
    return request(wrapped_data=b64(data), iv=b64(iv), wrap_type="A256CTR")


# --- vectors ---------------------------------------------------------------------------------------
async def test_the_answer_is_byte_exact(getter: StoredGetter) -> None:
    assert len(REQUEST) == 629
    answer = await ask(getter, REQUEST)
    assert len(answer) == 685
    assert answer == b'{"keyunwrapresults":{"optsdata":[' + ",".join(map(str, PRIVATE)).encode() + b"]}}"
    assert getter.asked == [KID]


def test_the_request_is_byte_exact() -> None:
    assert build_protocol_input(PACKET) == REQUEST


async def test_the_upstream_fixture_opens(getter: StoredGetter) -> None:
    data = AESGCM(FIXTURE_KEK).encrypt(base64.b64decode(FIXTURE_IV), FIXTURE_PRIVATE, None)
    assert b64(data).startswith("KxAFgXwa0y72Xdyg")
    packet = json.dumps(
        {"kid": FIXTURE_KID, "wrapped_data": b64(data), "iv": FIXTURE_IV, "wrap_type": "A256GCM"}, indent="\t"
    )
    assert optsdata(await ask(getter, build_protocol_input(packet.encode()))) == FIXTURE_PRIVATE


async def test_counter_mode_opens_and_its_counter_wraps(getter: StoredGetter) -> None:
    for iv in (bytes(range(16)), b"\xff" * 16):
        assert optsdata(await ask(getter, ctr_request(PRIVATE, iv=iv))) == PRIVATE


# --- shapes ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change",
    [
        {"keywrapparams": {}},
        {
            "keywrapparams": {
                "ec": {"Parameters": {"a": ["YQ=="]}, "DecryptConfig": {"Parameters": {}}},
                "optsdata": "YQ==",
            }
        },
        {"op": "keywrap"},
        {"op": ""},
        {"more": [1, 2]},
    ],
)
async def test_go_and_rust_requests_are_understood(getter: StoredGetter, change: dict[str, Any]) -> None:
    whole = {**json.loads(REQUEST), **change}
    assert optsdata(await ask(getter, json.dumps(whole).encode())) == PRIVATE


@pytest.mark.parametrize(
    "dc",
    [
        None,
        {},
        {"Parameters": None},
        {"Parameters": {"attestation-agent": ["YQ=="]}},
        {"Parameters": {"a": None}, "x": 1},
    ],
)
async def test_decrypt_configurations_do_not_matter(getter: StoredGetter, dc: Any) -> None:
    whole = json.loads(REQUEST)
    whole["keyunwrapparams"]["dc"] = dc
    assert optsdata(await ask(getter, json.dumps(whole).encode())) == PRIVATE
    del whole["keyunwrapparams"]["dc"]
    assert optsdata(await ask(getter, json.dumps(whole).encode())) == PRIVATE


@pytest.mark.parametrize(
    "change",
    [
        {"version": "0.1.0", "provider": "kbs", "provider_settings": {}, "annotations": {}},
        {"version": "0.1.0", "provider_settings": {"region": "x"}, "annotations": {"iv": 1}},
        {"more": True},
        {"kid": "kbs://host:8080/default/image-kek/1"},
    ],
)
async def test_version_2_packets_and_strangers_members(getter: StoredGetter, change: dict[str, Any]) -> None:
    assert optsdata(await ask(getter, request(**change))) == PRIVATE
    assert getter.asked == [KID]


# --- cdh.md A.7, one test per row ------------------------------------------------------------------
async def test_a7_keyunwrapparams_missing(getter: StoredGetter) -> None:
    whole = json.loads(REQUEST)
    del whole["keyunwrapparams"]
    assert await refusal(getter, json.dumps(whole).encode()) is ErrorCode.IMAGE_KEY_MALFORMED


@pytest.mark.parametrize("annotation", [None, "", "not base64!", "QQ", "QR==", 1, ["a"]])
async def test_a7_annotation_null_or_not_base64(getter: StoredGetter, annotation: Any) -> None:
    whole = json.loads(REQUEST)
    whole["keyunwrapparams"]["annotation"] = annotation
    assert await refusal(getter, json.dumps(whole).encode()) is ErrorCode.IMAGE_KEY_MALFORMED


async def test_a7_version(getter: StoredGetter) -> None:
    assert await refusal(getter, request(version="0.2.0", provider="kbs")) is ErrorCode.IMAGE_KEY_UNSUPPORTED
    assert getter.asked == []


@pytest.mark.parametrize("missing", ["iv", "wrap_type"])
async def test_a7_iv_or_wrap_type_missing(getter: StoredGetter, missing: str) -> None:
    assert await refusal(getter, request(**{missing: None})) is ErrorCode.IMAGE_KEY_MALFORMED
    assert getter.asked == []


@pytest.mark.parametrize("wrap_type", ["A128GCM", "a256gcm", "", "A256GCM ", "aes_256_ctr"])
async def test_a7_wrap_type_unknown(getter: StoredGetter, wrap_type: str) -> None:
    assert await refusal(getter, request(wrap_type=wrap_type)) is ErrorCode.IMAGE_KEY_MALFORMED
    assert getter.asked == []


@pytest.mark.parametrize(
    "kid", ["/default/image-kek/4a1e", "default/key/1", "https://a/b/c/d", "", "kbs:///a/../c"]
)
async def test_a7_kid_is_no_resource_uri(getter: StoredGetter, kid: str) -> None:
    assert await refusal(getter, request(kid=kid)) is ErrorCode.IMAGE_KEY_MALFORMED
    assert getter.asked == []


@pytest.mark.parametrize("provider", ["KBS", "Kbs", "sample", "", "kbs ", "\u212abs", "ehsm\n"])
async def test_a7_provider(getter: StoredGetter, provider: str) -> None:
    # Not the key broker's, whatever its kid says; and no key management service of that name decrypts.
    assert await refusal(getter, request(provider=provider)) is ErrorCode.KMS_UNKNOWN
    assert getter.asked == []


async def test_another_providers_packet_needs_no_iv_and_no_version(getter: StoredGetter) -> None:
    told = request(provider="AWS", version="7", iv=None, wrap_type=None, kid="alias/x", provider_settings={})
    assert await refusal(getter, told) is ErrorCode.KMS_SETTINGS_INVALID  # of aws: the region is missing
    for change in ({"kid": ""}, {"wrapped_data": ""}, {"wrapped_data": "?"}):
        assert await refusal(getter, request(provider="aws", **change)) is ErrorCode.IMAGE_KEY_MALFORMED
    assert getter.asked == []


async def test_a7_parameters_null_is_accepted(getter: StoredGetter) -> None:
    whole = json.loads(REQUEST)
    whole["keyunwrapparams"]["dc"] = {"Parameters": None}
    assert optsdata(await ask(getter, json.dumps(whole).encode())) == PRIVATE


# --- more that is refused --------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change",
    [
        {"iv": b64(bytes(11))},
        {"iv": b64(bytes(16))},
        {"iv": ""},
        {"iv": "oKGio6Slpqeoqaqr\n"},
        {"iv": b64(bytes(12)), "wrap_type": "A256CTR"},
        {"wrapped_data": ""},
        {"wrapped_data": b64(bytes(15))},
        {"wrapped_data": "*"},
        {"wrapped_data": 5},
        {"wrapped_data": "", "iv": b64(bytes(16)), "wrap_type": "A256CTR"},
        {"wrapped_data": None},
        {"kid": None},
        {"annotations": []},
    ],
)
async def test_packets_that_cannot_be_unwrapped_ask_for_no_key(
    getter: StoredGetter, change: dict[str, Any]
) -> None:
    assert await refusal(getter, request(**change)) is ErrorCode.IMAGE_KEY_MALFORMED
    assert getter.asked == []


@pytest.mark.parametrize("missing", ["op", "keywrapparams"])
async def test_required_members(getter: StoredGetter, missing: str) -> None:
    whole = json.loads(REQUEST)
    del whole[missing]
    assert await refusal(getter, json.dumps(whole).encode()) is ErrorCode.IMAGE_KEY_MALFORMED


async def test_size_comes_first(getter: StoredGetter) -> None:
    assert await refusal(getter, b" " * (limits.KEY_PROVIDER_MAX + 1)) is ErrorCode.PAYLOAD_TOO_LARGE
    padded = REQUEST + b" " * (limits.KEY_PROVIDER_MAX - len(REQUEST))
    assert optsdata(await ask(getter, padded)) == PRIVATE


@pytest.mark.parametrize(
    "kek", [b"", KEK[:16], KEK[:31], KEK + b"\n", base64.b64encode(KEK), KEK.hex().encode()]
)
async def test_a_key_of_another_size(getter: StoredGetter, kek: bytes) -> None:
    getter.held[KID] = kek
    for protocol_input in (REQUEST, ctr_request(PRIVATE)):
        assert await refusal(getter, protocol_input) is ErrorCode.IMAGE_KEY_UNWRAP_FAILED


async def test_a_wrong_key(getter: StoredGetter) -> None:
    getter.held[KID] = bytes(32)
    for protocol_input in (REQUEST, ctr_request(PRIVATE)):
        assert await refusal(getter, protocol_input) is ErrorCode.IMAGE_KEY_UNWRAP_FAILED


@unhurried
@given(st.integers(0, len(PRIVATE) + 16 - 1), st.integers(0, 7))
async def test_every_flipped_bit_is_noticed_by_gcm(byte: int, bit: int) -> None:
    data = bytearray(base64.b64decode(json.loads(PACKET)["wrapped_data"]))
    data[byte] ^= 1 << bit
    code = await refusal(StoredGetter({KID: KEK}), request(wrapped_data=b64(bytes(data))))
    assert code is ErrorCode.IMAGE_KEY_UNWRAP_FAILED


@pytest.mark.parametrize(
    "plaintext", [b"[1]", b'"text"', b"1", b"null", b"{", b'{"a":1}x', b'{"a":"\xff"}', b"\x00"]
)
async def test_counter_mode_must_give_an_object(getter: StoredGetter, plaintext: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        await ask(getter, ctr_request(plaintext))
    assert caught.value.code is ErrorCode.IMAGE_KEY_UNWRAP_FAILED
    assert caught.value.detail == "the A256CTR result is not a JSON object"


async def test_the_brokers_reason_stays(getter: StoredGetter) -> None:
    getter.held.clear()
    assert await refusal(getter, REQUEST) is ErrorCode.RESOURCE_NOT_FOUND


# --- wrapping --------------------------------------------------------------------------------------
async def test_what_is_wrapped_unwraps(getter: StoredGetter) -> None:
    packet = wrap(PRIVATE, KEK, KID)
    assert optsdata(await ask(getter, build_protocol_input(packet))) == PRIVATE
    assert list(json.loads(packet)) == ["kid", "wrapped_data", "iv", "wrap_type"]
    assert json.loads(packet)["iv"] != json.loads(wrap(PRIVATE, KEK, KID))["iv"]


def test_a_wrapped_packet_is_compact() -> None:
    packet = wrap(PRIVATE, KEK, KID)
    assert len(packet) == len(PACKET)
    assert b" " not in packet


def test_wrapping_refuses_what_unwrapping_would() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        wrap(PRIVATE, KEK[:16], KID)
    assert failure(lambda: wrap(PRIVATE, KEK, "/default/image-kek/1")) is ErrorCode.INVALID_URI


# --- anything at all -------------------------------------------------------------------------------
CODES = {None, ErrorCode.IMAGE_KEY_MALFORMED, ErrorCode.IMAGE_KEY_UNSUPPORTED}
_values: st.SearchStrategy[Any] = (
    st.none()
    | st.integers()
    | st.text(max_size=20)
    | st.binary(max_size=40).map(b64)
    | st.just({})
    | st.just([])
)


@unhurried
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_only_typed_errors_leave_the_parsers(data: bytes) -> None:
    assert failure(lambda: parse_protocol_input(data)) in CODES
    assert failure(lambda: parse_packet(data)) in CODES
    assert failure(lambda: parse_protocol_input(build_protocol_input(data))) in CODES


@unhurried
@given(
    st.dictionaries(
        st.sampled_from([*json.loads(PACKET), "version", "provider", "provider_settings", "annotations"]),
        _values | st.sampled_from(["A256GCM", "A256CTR", "kbs", "0.1.0"]),
    )
)
def test_only_typed_errors_leave_the_packet_parser(change: dict[str, Any]) -> None:
    assert failure(lambda: parse_packet(json.dumps({**json.loads(PACKET), **change}).encode())) in CODES


@unhurried
@given(
    st.dictionaries(st.sampled_from(["op", "keywrapparams", "keyunwrapparams"]), _values),
    st.dictionaries(st.sampled_from(["dc", "annotation"]), _values),
)
def test_only_typed_errors_leave_the_request_parser(outer: dict[str, Any], inner: dict[str, Any]) -> None:
    whole = json.loads(REQUEST)
    whole["keyunwrapparams"].update(inner)
    assert failure(lambda: parse_protocol_input(json.dumps({**whole, **outer}).encode())) in CODES
