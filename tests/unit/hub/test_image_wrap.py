"""WrapKey as Go's and Rust's ocicrypt ask for it, and what a guest then makes of the packet."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.hub.image_keys import unwrap
from agent.hub.image_packets import WrappedKey, WrapType, parse_packet
from agent.hub.image_wrap import (
    Parameters,
    WrapRequest,
    build_wrap_output,
    operation,
    parse_parameters,
    parse_wrap_input,
    wrap,
)
from agent.secret import Secret
from tests.unit.hub.support import failure, unhurried
from tests.unit.hub.test_image_keys import KEK, KID, PRIVATE

GIVEN = f"keyid={KID}::algorithm=A256CTR::keypath=/keys/1"


def b64(value: bytes | str) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()


def request(given: Any = None, optsdata: Any = None, **change: Any) -> bytes:
    """What skopeo 1.18 sends, with some members changed."""
    whole = {
        "op": "keywrap",
        "keywrapparams": {
            "ec": {
                "Parameters": {"attestation-agent": [b64(GIVEN)] if given is None else given},
                "DecryptConfig": {"Parameters": {}},
            },
            "optsdata": b64(PRIVATE) if optsdata is None else optsdata,
        },
        "keyunwrapparams": {"dc": None, "annotation": None},
        **change,
    }
    return json.dumps(whole).encode()


# --- input -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("given", [b64(GIVEN), list(GIVEN.encode()), GIVEN], ids=["go", "integers", "text"])
@pytest.mark.parametrize(
    "optsdata", [b64(PRIVATE), list(PRIVATE), PRIVATE.decode()], ids=["go", "integers", "rust"]
)
def test_every_librarys_spelling_is_understood(given: Any, optsdata: Any) -> None:
    found = parse_wrap_input(request([given], optsdata))
    assert found.parameters == Parameters(KID, "/keys/1", WrapType.A256CTR)
    assert found.private_options.reveal() == PRIVATE
    assert PRIVATE.decode() not in repr(found)


@pytest.mark.parametrize(
    "config",
    [{"DecryptConfig": None}, {"DecryptConfig": {"Parameters": None}}, {"other": 1}, {}],
)
def test_decrypt_configurations_do_not_matter(config: dict[str, Any]) -> None:
    ec = {"Parameters": {"attestation-agent": [b64(GIVEN)], "pubkeys": ["YQ=="]}, **config}
    body = request(keywrapparams={"ec": ec, "optsdata": b64(PRIVATE)})
    assert parse_wrap_input(body).parameters.kid == KID


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        request(op="keyunwrap"),
        request(op=None),
        request(keywrapparams=None),
        request(keywrapparams={"ec": None, "optsdata": b64(PRIVATE)}),
        request(keywrapparams={"ec": {"Parameters": None}, "optsdata": b64(PRIVATE)}),
        request(keywrapparams={"ec": {"Parameters": {}}, "optsdata": b64(PRIVATE)}),
        request([]),
        request([b64(GIVEN), b64(GIVEN)]),
        request([None]),
        request([[256]]),
        request([[-1]]),
        request([[1.5]]),
        request([b64(b"\xff\xfe")]),
        request(["Enabled"]),
        request(optsdata=None).replace(b64(PRIVATE).encode(), b""),
        request(optsdata=b64(b"no json")),
        request(optsdata="[1, 2]"),
        request(optsdata=7),
    ],
)
def test_what_is_no_request_is_refused(body: bytes) -> None:
    assert failure(lambda: parse_wrap_input(body)) is ErrorCode.INVALID_REQUEST


def test_size_is_bounded_before_parsing() -> None:
    body = b" " * (limits.KEY_PROVIDER_MAX + 1)
    assert failure(lambda: parse_wrap_input(body)) is ErrorCode.PAYLOAD_TOO_LARGE
    assert failure(lambda: operation(body)) is ErrorCode.PAYLOAD_TOO_LARGE


def test_the_operation_is_told() -> None:
    assert operation(request()) == "keywrap"
    assert failure(lambda: operation(b"{}")) is ErrorCode.INVALID_REQUEST


# --- parameters ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("keyid", "kid"),
    [
        ("kbs:///a/b/c", "kbs:///a/b/c"),
        ("kbs://kbs.example:8080/a/b/c", "kbs:///a/b/c"),
        ("kbs+plugin:///a/b", "kbs+plugin:///a/b"),
        ("127.0.0.1:8080/a/b/c", "kbs:///a/b/c"),
        ("/a/b/c", "kbs:///a/b/c"),
    ],
)
def test_every_spelling_of_a_key_id_becomes_one_that_guests_accept(keyid: str, kid: str) -> None:
    assert parse_parameters(f"keyid={keyid}") == Parameters(kid)


@pytest.mark.parametrize(
    "keyid", ["a/b/c", "a", "/", "kbs:///a/b", "http://x/a/b/c", "kbs:///a/../c", "/a/b/c/d"]
)
def test_a_key_id_that_no_guest_accepts_is_refused(keyid: str) -> None:
    assert failure(lambda: parse_parameters(f"keyid={keyid}")) is ErrorCode.INVALID_URI


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Enabled",
        "keypath=/keys/1",
        "algorithm=A256GCM",
        "sample=false",
        "keyid=",
        f"keyid={KID}::keyid={KID}",
        f"keyid={KID}::",
        f"keyid={KID}::key_path=/x",
        f"keyid={KID}::KEYPATH=/x",
        f"keyid={KID}::algorithm=a256gcm",
        f"keyid={KID}::algorithm=A128GCM",
        f"keyid={KID}::algorithm=",
        f"keyid={KID}::sample=yes",
        f"keyid={KID}::sample=true",
        "sample=true::keypath=/x",
    ],
)
def test_a_parameter_that_is_missing_misspelled_or_at_odds_is_refused(text: str) -> None:
    assert failure(lambda: parse_parameters(text)) is ErrorCode.INVALID_REQUEST


def test_the_sample_key_is_asked_for_by_name_only() -> None:
    assert parse_parameters("sample=true") == Parameters("kbs:///default/test-key/1", sample=True)
    assert not parse_parameters(f"sample=false::keyid={KID}").sample


# --- output ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("wrap_type", WrapType)
def test_a_guest_opens_what_was_wrapped(wrap_type: WrapType) -> None:
    asked = WrapRequest(Parameters(KID, wrap_type=wrap_type), Secret(PRIVATE))
    packet = wrap(asked, Secret(KEK))
    assert list(json.loads(packet)) == ["kid", "wrapped_data", "iv", "wrap_type"]
    key = parse_packet(packet)
    assert isinstance(key, WrappedKey)
    assert (key.kid, key.wrap_type) == (KID, wrap_type)
    assert unwrap(key, Secret(KEK)).reveal() == PRIVATE
    assert wrap(asked, Secret(KEK)) != packet


@pytest.mark.parametrize("size", [0, 31, 33, 44])
def test_a_key_of_another_length_is_refused(size: int) -> None:
    asked = WrapRequest(Parameters(KID), Secret(PRIVATE))
    assert failure(lambda: wrap(asked, Secret(os.urandom(size)))) is ErrorCode.INVALID_REQUEST


def test_the_answer_is_an_array_of_integers() -> None:
    assert build_wrap_output(b"{}") == b'{"keywrapresults":{"annotation":[123,125]}}'


# --- nothing else escapes --------------------------------------------------------------------------
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@unhurried
@given(st.binary(max_size=200) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_request_or_a_typed_refusal(body: bytes) -> None:
    failure(lambda: parse_wrap_input(body))


@unhurried
@given(given=st.lists(_JSON, min_size=1, max_size=2), optsdata=_JSON)
def test_any_members_are_a_request_or_a_typed_refusal(given: Any, optsdata: Any) -> None:
    failure(lambda: parse_wrap_input(request(given, optsdata)))


@unhurried
@given(
    st.lists(
        st.sampled_from(["keyid", "keypath", "=", "::", "/a/b/c", "sample", "true", "kbs://"]) | st.text()
    )
)
def test_any_text_is_parameters_that_hold_or_a_typed_refusal(parts: list[str]) -> None:
    try:
        found = parse_parameters("".join(parts))
    except AgentError:
        return
    key = parse_packet(wrap(WrapRequest(found, Secret(PRIVATE)), Secret(KEK)))
    assert isinstance(key, WrappedKey)
    assert key.kid == found.kid
