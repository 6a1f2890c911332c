"""DER and CBOR as far as evidence needs them, and what is built of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import AgentError, ErrorCode
from agent.tee.evidence import cbor, der
from agent.tee.evidence.cbor import Tagged, decode
from agent.tee.evidence.cca import parse_cca
from tests.unit.tee.evidence.forge import attempt


def head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    size = next(n for n in (1, 2, 4, 8) if number < 1 << 8 * n)
    return bytes([major << 5 | {1: 24, 2: 25, 4: 26, 8: 27}[size]]) + number.to_bytes(size, "big")


def encode(value: object) -> bytes:  # noqa: PLR0911  # one per major type
    match value:
        case bool() | None:
            return {False: b"\xf4", True: b"\xf5", None: b"\xf6"}[value]
        case int():
            return head(0, value) if value >= 0 else head(1, -1 - value)
        case bytes():
            return head(2, len(value)) + value
        case str():
            return head(3, len(value.encode())) + value.encode()
        case list():
            return head(4, len(value)) + b"".join(map(encode, value))
        case dict():
            return head(5, len(value)) + b"".join(encode(k) + encode(v) for k, v in value.items())
        case Tagged():
            return head(6, value.tag) + encode(value.value)
    raise AssertionError(value)


def token(**changed: object) -> bytes:
    realm: dict[int | str, object] = {
        10: b"\x01" * 64,
        44235: b"\x02" * 64,
        44236: "sha-256",
        44237: b"\x03" * 97,
        44238: b"\x04" * 32,
        44239: [bytes([i]) * 32 for i in range(4)],
        44240: "sha-512",
    }
    platform: dict[int | str, object] = {
        265: "tag:arm.com,2023:cca_platform#1.0.0",
        2395: 12291,
        2396: b"\x05" * 32,
    }
    for name, value in changed.items():
        claims = platform if int(name[1:]) in platform else realm
        claims[int(name[1:])] = value

    def signed(claims: object) -> bytes:
        return encode(Tagged(18, [b"", {}, encode(claims), b"\x06" * 96]))

    return encode(Tagged(399, {44234: signed(platform), 44241: signed(realm)}))


def test_a_cca_token_shows_what_the_realm_claims() -> None:
    data = token()
    assert data.startswith(bytes.fromhex("d9018f"))
    found = parse_cca(data)
    assert found.challenge == b"\x01" * 64
    assert found.personalization == b"\x02" * 64
    assert found.initial_measurement == b"\x04" * 32
    assert len(found.extensible_measurements) == 4
    assert found.platform["2395"] == "12291"
    assert found.platform["2396"] == "05" * 32


@pytest.mark.parametrize(
    "data",
    [
        b"",
        token()[:-1],
        token() + b"\0",
        token(_10=b"short"),
        token(_44239="none"),
        token(_44236=7),
        encode(Tagged(398, {})),
        encode({44234: b"", 44241: b""}),
        encode(Tagged(399, {44234: [b"", {}, b"", b""]})),
    ],
)
def test_another_token_is_malformed(data: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        parse_cca(data)
    assert caught.value.code is ErrorCode.EVIDENCE_MALFORMED


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**32), 2**63) | st.binary(max_size=20) | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.integers(-300, 300) | st.text(max_size=5), inner, max_size=4)
        | st.builds(Tagged, st.integers(0, 70_000), inner)
    ),
    max_leaves=10,
)


@settings(max_examples=150)
@given(value=VALUES)
def test_cbor_is_read_as_written(value: object) -> None:
    try:
        assert decode(encode(value)) == value
    except AgentError:
        assert _depth(value) > cbor.MAX_DEPTH


def _depth(value: object) -> int:
    match value:
        case Tagged():
            return 1 + _depth(value.value)
        case list():
            return 1 + max(map(_depth, value), default=0)
        case dict():
            return 1 + max(map(_depth, value.values()), default=0)
    return 0


@pytest.mark.parametrize(
    "data",
    [
        b"\x9b" + b"\xff" * 8,  # a list of 2**64 items, of which none is there
        b"\x5b" + b"\xff" * 8,
        b"\x81" * 20 + b"\0",
        b"\x9f\xff",  # indefinite
        b"\xfb" + bytes(8),  # float
        b"\xa2\x01\x01\x01\x02",  # a key twice
        b"\xa1\x40\x01",  # a key of bytes
        b"\xa1\xf5\x01",
        b"\x61\xff",
        b"\xf7",
        b"\x99\x20\0" + b"\0" * 8192,  # more items than a token can have
    ],
)
def test_cbor_that_is_no_evidence_is_malformed(data: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        decode(data)
    assert caught.value.code is ErrorCode.EVIDENCE_MALFORMED


@settings(max_examples=200)
@given(data=st.binary(max_size=200), at=st.integers(0, 400), byte=st.integers(0, 255))
def test_any_bytes_are_cbor_and_der_or_malformed(data: bytes, at: int, byte: int) -> None:
    whole = bytearray(token())
    whole[at % len(whole)] = byte
    for call in (
        lambda: decode(data),
        lambda: parse_cca(data),
        lambda: parse_cca(bytes(whole)),
        lambda: [
            each(found) for found in der.elements(data) for each in (der.children, der.dotted, der.unsigned)
        ],
    ):
        attempt(call)


@pytest.mark.parametrize(
    ("content", "value"), [(b"\x05", 5), (b"\0\xd9", 0xD9), (b"\x7f", 127), (b"\x01\x00", 256)]
)
def test_integers_from_0x80_on_have_a_zero_in_front(content: bytes, value: int) -> None:
    assert der.unsigned(der.Element(der.INTEGER, content)) == value


def test_a_negative_integer_is_malformed() -> None:
    with pytest.raises(AgentError, match="negative"):
        der.unsigned(der.Element(der.INTEGER, b"\xd9"))


@pytest.mark.parametrize(
    ("hexadecimal", "text"),
    [
        ("2a864886f84d010d01", "1.2.840.113741.1.13.1"),
        ("678105050401", "2.23.133.5.4.1"),
        ("883703", "2.999.3"),
    ],
)
def test_object_identifiers_are_read(hexadecimal: str, text: str) -> None:
    assert der.dotted(der.Element(der.OID, bytes.fromhex(hexadecimal))) == text
