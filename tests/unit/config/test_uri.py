from __future__ import annotations

import re
from urllib.parse import unquote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import limits
from agent.config.uri import ResourceUri, parse_uri
from agent.errors import AgentError, ErrorCode
from tests.unit.kbs import PROPERTY, outcome

INVALID = "invalid kbs resource uri, should be kbs://<addr-of-kbs>/<repo>/<type>/<tag>"
BAD_SCHEME = "scheme must be kbs or kbs+<plugin>"


def refusal(text: str) -> str:
    with pytest.raises(AgentError) as caught:
        parse_uri(text)
    assert caught.value.code is ErrorCode.INVALID_URI
    return caught.value.detail


@pytest.mark.parametrize(
    "text",
    [
        "kbs:///default/key/1",
        "KBS:///default/key/1",
        "kbs+resource:///default/key/1",
        "Kbs+Resource://kbs.example:8080/default/key/1",
        "kbs://user:word@[2001:db8::1]:8080/default/key/1",
        "kbs:///default/key/1?",
    ],
)
def test_spellings_of_one_resource(text: str) -> None:
    uri = parse_uri(text)
    assert uri == ResourceUri("resource", ("default", "key", "1"))
    assert str(uri) == "kbs:///default/key/1"
    assert uri.path == "default/key/1"
    assert uri.request_target == "resource/default/key/1"


def test_plugin_with_query_is_kept_as_written() -> None:
    uri = parse_uri("kbs+Nebula-CA://host/credential?name=a%20b&ip=10.1.2.3/16")
    assert uri.plugin == "nebula-ca"
    assert uri.query == "name=a%20b&ip=10.1.2.3/16"
    assert uri.request_target == "nebula-ca/credential?name=a%20b&ip=10.1.2.3/16"
    assert str(uri) == "kbs+nebula-ca:///credential?name=a%20b&ip=10.1.2.3/16"


def test_escapes_stay_and_names_are_decoded_once() -> None:
    uri = parse_uri("kbs:///default/%6bey/1")
    assert uri.segments == ("default", "%6bey", "1")
    assert uri.request_target == "resource/default/%6bey/1"
    assert uri.names == ("default", "key", "1")
    assert parse_uri("kbs+p:///100%2525").names == ("100%25",)


@pytest.mark.parametrize(
    "text", ["http:///a/b/c", "kb:///a/b/c", "kbs-x:///a/b/c", "kbs+..:///a", "kbs+.:///a"]
)
def test_bad_scheme(text: str) -> None:
    assert refusal(text) == BAD_SCHEME


def test_scheme_without_plugin() -> None:
    assert refusal("kbs+:///a") == "scheme kbs+ requires a plugin name, e.g. kbs+pkcs11"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "default/key/1",
        "kbs:/default/key/1",
        "kbs+My_Plug:///a",
        " kbs:///a/b/c",
        "kbs:///a/b/c\n",
        "kbs://host",
        "kbs://host?a/b/c",
        "kbs://ho st/a/b/c",
        "kbs://ho\\st/a/b/c",
        "kbs:///a/b/c#tag",
        "kbs:///a/b/c?x#tag",
        "kbs:///",
        "kbs:///a/b",
        "kbs:///a/b/c/d",
        "kbs:///a/b/c/",
        "kbs:////a/b/c",
        "kbs:///a//c",
        "kbs:///a/../c",
        "kbs:///a/%2e%2e/c",
        "kbs:///a/%252e%252e/c",
        "kbs:///a/.b/c",
        "kbs:///a/b%2fc/d",
        "kbs:///a/b\\c/d",
        "kbs:///a/b%5cc/d",
        "kbs:///a/b/c%00",
        "kbs:///a/b/c%",
        "kbs:///a/b/c%4",
        "kbs:///a/b/ü",
        "kbs:///a/b/%c3%bc",
        "kbs:///a/b/c~",
        "kbs:///a/b/c?x y",
        "kbs:///a/b/c?x\\y",
        "kbs:///a/b/c?x%zz",
        "kbs:///a/b/c?x\r\nHost: other",
        "kbs+p:///",
        "kbs+p:///a//b",
        "kbs+p:///a/",
        "kbs+p:///a/..",
        "kbs+p:///a/.%2E",
        "kbs+p:///./a",
        "kbs+p:///a%2Fb",
        "kbs+p:///a%5Cb",
        "kbs+p:///a%0d%0ab",
        "kbs+p:///a%c2%85b",
        "kbs+p:///a%7f",
        "kbs+p:///a%ff",
        "kbs+p:///a b",
        "kbs+p:///a\\..\\b",
        "kbs+p:///a[b]",
    ],
)
def test_refused(text: str) -> None:
    detail = refusal(text)
    assert detail.startswith(INVALID)


def test_refusal_does_not_repeat_the_text() -> None:
    assert "hunter2" not in refusal("kbs://user:hunter2@host/hunter2/../hunter2")


def test_length_is_bounded() -> None:
    start = "kbs+p:///"
    longest = start + "a" * (limits.URI_MAX - len(start))
    assert str(parse_uri(longest)) == longest
    assert refusal(longest + "a").startswith(INVALID)


def test_other_plugins_may_use_any_path_character() -> None:
    text = "kbs+external:///backend/a:b@c;d=1,2!$&'()*+~_-./caf%C3%A9"
    assert str(parse_uri(text)) == text


@pytest.mark.parametrize(
    ("plugin", "segments", "query"),
    [
        ("resource", ("a", "b"), ""),
        ("resource", ("a", "b/c", "d"), ""),
        ("RESOURCE", ("a", "b", "c"), ""),
        ("a/b", ("c",), ""),
        ("", ("c",), ""),
        ("p", (), ""),
        ("p", ("..",), ""),
        ("p", ("a",), "x#y"),
        ("p", ("a",), "x\ny"),
        ("p", ("a" * limits.URI_MAX,), ""),
    ],
)
def test_an_invalid_one_cannot_be_built(plugin: str, segments: tuple[str, ...], query: str) -> None:
    with pytest.raises(AgentError) as caught:
        ResourceUri(plugin, segments, query)
    assert caught.value.code is ErrorCode.INVALID_URI


PIECES = st.one_of(
    st.sampled_from(["kbs", "resource", "://", "..", "%2e", "%2F", "%5c", "%25", "%00"]),
    st.sampled_from("aB-_./?#@%+&:[\\é \n\0"),
)
ALMOST = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=25).map("".join)).flatmap(
    lambda tail: st.sampled_from([tail, "kbs://" + tail, "kbs:///a/" + tail, "kbs+p:///" + tail])
)


@PROPERTY
@given(ALMOST)
def test_property_only_the_declared_error_and_nothing_climbs(text: str) -> None:
    uri = outcome(ErrorCode.INVALID_URI, lambda: parse_uri(text))
    if uri is None:
        return
    assert parse_uri(str(uri)) == uri
    assert re.fullmatch(r"[!-~]+", uri.request_target)
    path = uri.request_target.partition("?")[0]
    once = unquote_to_bytes(path).decode().split("/")
    assert once == [uri.plugin, *uri.names]
    assert not {"", ".", ".."} & set(once)
    assert not any(char in path for char in "#\\")
    if uri.plugin == "resource":
        assert unquote(unquote(path)).split("/") == once


NAME = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,12}", fullmatch=True)


@PROPERTY
@given(NAME, NAME, NAME, st.from_regex(r"([a-z0-9=&/?:@-]|%[0-9A-F]{2}){0,20}", fullmatch=True))
def test_property_round_trip(repository: str, kind: str, tag: str, query: str) -> None:
    uri = ResourceUri("resource", (repository, kind, tag), query)
    assert parse_uri(str(uri)) == uri
    assert parse_uri(str(uri).replace("kbs://", "KBS+Resource://kbs.example", 1)) == uri
