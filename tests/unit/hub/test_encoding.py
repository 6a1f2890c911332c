"""Strict base64 and JSON: one spelling per value, one error for everything else."""

from __future__ import annotations

import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import AgentError, ErrorCode
from agent.hub.encoding import read_json, standard_decode, standard_encode, url_decode, url_encode
from tests.unit.hub.support import failure, unhurried


class _Shape(msgspec.Struct):
    name: str
    more: dict[str, msgspec.Raw] = {}


@unhurried
@given(st.binary(max_size=100))
def test_what_is_encoded_decodes(value: bytes) -> None:
    assert standard_decode(standard_encode(value)) == value
    assert url_decode(url_encode(value)) == value


@unhurried
@given(st.text(max_size=40))
def test_a_decoded_text_was_the_only_spelling(text: str) -> None:
    for decode, encode in ((standard_decode, standard_encode), (url_decode, url_encode)):
        try:
            value = decode(text)
        except ValueError:
            continue
        assert encode(value) == text


@pytest.mark.parametrize("text", ["QQ==", "QR", "Q", "Q Q", "QQ\n", "+/", "Ä", "QQ.", "AAAAA"])
def test_base64url_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="base64url"):
        url_decode(text)


@pytest.mark.parametrize(
    "text", ["QQ", "QR==", "QQ=", "QQ==\n", " QQ==", "-_==", "QQ==QQ==", "====", "Ä", "="]
)
def test_standard_base64_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="standard"):
        standard_decode(text)


@unhurried
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_only_the_declared_error_leaves_the_json_reader(data: bytes) -> None:
    code = failure(lambda: read_json(data, _Shape, ErrorCode.SEALED_MALFORMED, "test"))
    assert code in {None, ErrorCode.SEALED_MALFORMED}


@pytest.mark.parametrize(
    "data",
    [
        b'{"name":"\xff"}',
        b'{"name":"a","other":"\xff"}',
        b'{"name":"a","more":{"x":"\xff"}}',
        b'{"name":"a","other":' + b"[" * 100_000,
        b'{"name":"a","other":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"name":"\\udc00"}',
        b'{"name":"a"} {}',
        b'{"name":null}',
        b"\xef\xbb\xbf{}",
        b"",
    ],
)
def test_json_refuses(data: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        read_json(data, _Shape, ErrorCode.SEALED_MALFORMED, "test")
    assert caught.value.code is ErrorCode.SEALED_MALFORMED


def test_json_errors_do_not_repeat_values() -> None:
    canary = "canary-7f3a"
    documents = (
        f'{{"name":["{canary}"]}}',
        f'{{"name":{canary}}}',
        f'{{"{canary}":1}}',
        f'{{"name":"a","more":"{canary}"}}',
    )
    for document in documents:
        with pytest.raises(AgentError) as caught:
            read_json(document.encode(), _Shape, ErrorCode.SEALED_MALFORMED, "test")
        assert canary not in caught.value.detail


def test_the_url_alphabet_is_the_url_alphabet() -> None:
    assert url_decode("-_8") == base64.b64decode("+/8=")
