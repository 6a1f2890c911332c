from __future__ import annotations

import base64
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from agent.kbs.messages import (
    Attestation,
    Challenge,
    InitData,
    JweBody,
    Problem,
    Request,
    RequestParams,
    RuntimeData,
    TeeEvidence,
    TokenReply,
    b64url_decode,
    b64url_encode,
    jwt_payload,
    parse,
)
from tests.unit.kbs import PROPERTY


def test_request_on_the_wire() -> None:
    request = Request("0.4.0", "sample", RequestParams(("sha256", "sha384")))
    assert msgspec.json.encode(request) == (
        b'{"version":"0.4.0","tee":"sample","extra-params":{"supported-hash-algorithms":["sha256","sha384"]}}'
    )


def test_attestation_on_the_wire() -> None:
    body = Attestation(
        InitData("[data]\n"),
        RuntimeData("bm9uY2U=", {"kty": "EC"}),
        TeeEvidence(msgspec.Raw(b'{"svn":"1"}'), "{}"),
    )
    assert json.loads(msgspec.json.encode(body)) == {
        "init-data": {"format": "toml", "body": "[data]\n"},
        "runtime-data": {"nonce": "bm9uY2U=", "tee-pubkey": {"kty": "EC"}},
        "tee-evidence": {"primary_evidence": {"svn": "1"}, "additional_evidence": "{}"},
    }


def test_a_challenge_takes_any_extra_params() -> None:
    for text in ('""', "null", "{}", '{"a":[1]}', "3"):
        body = b'{"nonce":"n","extra-params":' + text.encode() + b"}"
        assert parse(body, Challenge, 100).extra_params is not UNSET
    assert parse(b'{"nonce":"n"}', Challenge, 100).extra_params is UNSET


def test_unknown_members_are_ignored() -> None:
    assert parse(b'{"new":{"a":[1]},"token":"t"}', TokenReply, 100) == TokenReply("t")
    assert parse(b'{"type":"t","title":1}', Problem, 100) == Problem("t")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"{}",
        b'{"token":1}',
        b'{"token":"\xff"}',
        b'{"token":"\\ud800"}',
        b'{"token":"t"}x',
        b'{"x":' * 30000,
        b"\xef\xbb\xbf{}",
        b'{"token":"' + b"t" * 100 + b'"}',
    ],
)
def test_unreadable(body: bytes) -> None:
    with pytest.raises(ValueError):
        parse(body, TokenReply, 100 if len(body) < 1000 else 10**6)


@PROPERTY
@given(st.binary(max_size=80))
def test_property_parse_raises_nothing_else(body: bytes) -> None:
    for kind in (Challenge, TokenReply, Problem, JweBody):
        try:
            parse(body, kind, 64)
        except ValueError as error:
            assert len(str(error)) < 200  # noqa: PT017  # that it may not come is the point


@PROPERTY
@given(st.binary(max_size=40))
def test_property_base64url_round_trip(value: bytes) -> None:
    text = b64url_encode(value)
    assert text == base64.urlsafe_b64encode(value).decode().rstrip("=")
    assert b64url_decode(text) == value


@PROPERTY
@given(st.text(alphabet="AQgwZz09-_+/= \né", max_size=12))
def test_property_base64url_has_one_spelling(text: str) -> None:
    try:
        value = b64url_decode(text)
    except ValueError:
        return
    assert b64url_encode(value) == text


@pytest.mark.parametrize(
    "text", ["A", "AB", "ABA=", "AA==", "AAB", "A A", "AA\n", "A+AA", "A/AA", "AAAAA", "é"]
)
def test_loose_base64url_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        b64url_decode(text)


def test_jwt_payload() -> None:
    assert jwt_payload("e30.eyJleHAiOjF9.AA") == b'{"exp":1}'
