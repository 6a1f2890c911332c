"""Targets, queries and headers: known cases, and what must hold for any input."""

from __future__ import annotations

import base64
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config.model import Features
from agent.errors import AgentError, ErrorCode
from agent.serve.rest import routes
from agent.serve.rest.guard import is_own_host
from agent.serve.rest.headers import preferred_wait, wants_json
from agent.serve.rest.query import parse_query, runtime_data
from agent.serve.rest.target import Target, parse_target, split_nth_slash

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def outcome(call: Callable[[], T]) -> T | ErrorCode:
    """What a parser makes of its input; anything but its declared error fails the test."""
    try:
        return call()
    except AgentError as error:
        return error.code


RAW = st.text(st.characters() | st.sampled_from("/?#%&=+.\udcff"), max_size=60)


@pytest.mark.parametrize(
    ("n", "parts"),
    [
        (0, None),
        (1, ("", "/cdh/resource/default/")),
        (2, ("/cdh", "/resource/default/")),
        (3, ("/cdh/resource", "/default/")),
        (4, ("/cdh/resource/default", "/")),
        (5, None),
    ],
)
def test_10_1_split_nth_slash(n: int, parts: tuple[str, str] | None) -> None:
    assert split_nth_slash("/cdh/resource/default/", n) == parts


@pytest.mark.parametrize(
    ("fields", "data"),
    [
        ({"runtime_data": "hello"}, b"hello"),
        ({"runtime_data": "cmVwb3J0", "encoding": "base64"}, b"report"),
        ({"runtime_data": "", "encoding": "base64"}, b""),
        ({"runtime_data": "_-8", "encoding": "base64"}, b"\xff\xef"),
        ({"runtime_data": "data", "encoding": "hex"}, None),
        ({"runtime_data": "!!!", "encoding": "base64"}, None),
        ({"runtime_data": "/+8", "encoding": "base64"}, None),
        ({"runtime_data": "_-8=", "encoding": "base64"}, None),
        ({"runtime_data": "_-9", "encoding": "base64"}, None),
        ({"runtime_data": "A", "encoding": "base64"}, None),
        ({"runtime_data": "cmVwb3J0\n", "encoding": "base64"}, None),
    ],
)
def test_10_1_runtime_data(fields: dict[str, str], data: bytes | None) -> None:
    if data is not None:
        assert runtime_data(fields) == data
        return
    with pytest.raises(AgentError) as raised:
        runtime_data(fields)
    assert raised.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        ("a=1&b=2", {"a": "1", "b": "2"}),
        ("a=1&a=2", {"a": "2"}),
        ("a", {"a": ""}),
        ("=a", {"": "a"}),
        ("a=b=c", {"a": "b=c"}),
        ("a=+%2B%20", {"a": " + "}),
        ("a+b=%C3%A9", {"a b": "\u00e9"}),
        ("a=\u00e9", {"a": "\u00e9"}),
        ("a=%zz%4", {"a": "%zz%4"}),
        ("&&a=1&", {"a": "1"}),
        ("a=1;b=2", {"a": "1;b=2"}),
        ("a=?/", {"a": "?/"}),
    ],
)
def test_query_strings_are_form_data(text: str, fields: dict[str, str]) -> None:
    assert parse_query(text) == fields


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=5))
def test_a_query_that_was_encoded_as_form_data_comes_back(fields: dict[str, str]) -> None:
    try:
        text = urlencode(fields)
    except UnicodeEncodeError:
        return
    assert parse_query(text) == fields


@given(st.binary(max_size=100))
def test_runtime_data_comes_back_from_base64(data: bytes) -> None:
    text = base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    assert runtime_data({"runtime_data": text, "encoding": "base64"}) == data


@given(RAW, st.sampled_from([None, "base64"]))
def test_any_query_is_fields_or_an_invalid_request(text: str, encoding: str | None) -> None:
    extra = {} if encoding is None else {"encoding": encoding}
    result = outcome(lambda: runtime_data(parse_query(text) | extra))
    assert isinstance(result, bytes) or result is ErrorCode.INVALID_REQUEST


@given(RAW)
def test_any_target_is_taken_whole_or_refused(text: str) -> None:
    target = outcome(lambda: parse_target(text))
    if not isinstance(target, Target):
        assert target is ErrorCode.INVALID_REQUEST
        return
    whole = f"{target.path}?{target.query}" if target.query or text.endswith("?") else target.path
    assert whole == text


AUTHORITIES = (
    st.from_regex(r"[0-9a-z.:\[\]@%\\#?/-]{0,20}", fullmatch=True)
    | st.sampled_from(["localhost", "LOCALHOST.:80", "127.0.0.1", "[::1]:8006", "127.0.0.1@evil.test", ""])
    | st.text(max_size=12)
)


@given(st.sampled_from(["http://", "HTTP://", "https://", "//", "http:"]), AUTHORITIES, RAW)
def test_an_absolute_target_is_taken_whole_or_refused(scheme: str, authority: str, rest: str) -> None:
    raw = scheme + authority + rest
    target = outcome(lambda: parse_target(raw))
    if not isinstance(target, Target):
        assert target is ErrorCode.INVALID_REQUEST
        return
    if target.authority is None:
        assert raw.startswith("/")
        return
    behind = raw.partition("//")[2].removeprefix(target.authority)
    assert f"{target.path}?{target.query}" in {behind, f"{behind}?", f"/{behind}", f"/{behind}?"}
    assert not set(target.authority) & set("/?#")


@given(AUTHORITIES, RAW)
def test_what_an_admitted_target_names_is_this_guest_to_another_parser(authority: str, rest: str) -> None:
    raw = f"http://{authority}{rest}"
    target = outcome(lambda: parse_target(raw))
    if not isinstance(target, Target) or not is_own_host(target.authority or "", ()):
        return
    other = urlsplit(raw)
    assert (other.username, other.password) == (None, None)
    name = (other.hostname or "").removesuffix(".")
    assert name == "localhost" or ip_address(name).is_loopback
    assert target.path == (other.path or "/")


@given(st.text(max_size=40))
def test_a_resource_path_is_forwarded_byte_for_byte(text: str) -> None:
    rest = "/" + quote(text.encode("utf-8", "surrogatepass"), safe="/.:@!$&'()*+,;=-_~")
    target = parse_target(f"/cdh/resource{rest}")
    assert routes.find(target.path, "GET", Features.RESOURCE).rest == rest


@settings(max_examples=200)
@given(RAW, st.sampled_from(["GET", "HEAD", "POST", "BREW"]), st.sampled_from(list(Features)))
def test_any_path_has_a_route_or_a_declared_error(path: str, method: str, features: Features) -> None:
    result = outcome(lambda: routes.find(f"/{path}", method, features))
    assert isinstance(result, routes.Match) or result in {
        ErrorCode.UNKNOWN_ROUTE,
        ErrorCode.FEATURE_DISABLED,
        ErrorCode.METHOD_NOT_ALLOWED,
    }


def test_a_target_is_split_at_the_first_question_mark() -> None:
    assert parse_target("/a?b?c") == Target("/a", "b?c")


@pytest.mark.parametrize(
    ("accept", "json"),
    [
        ([], False),
        (["*/*"], False),
        (["text/plain"], False),
        (["application/json"], True),
        (["Application/JSON; charset=utf-8"], True),
        (["application/problem+json"], True),
        (["application/*"], True),
        (["application/json, text/plain, */*"], True),
        (["text/html", "application/json;q=0.1"], True),
        (["text/plain, application/json;q=0.5"], False),
        (["text/plain;q=0.4, application/json;q=0.5"], True),
        (["text/*, application/json;q=0.9"], False),
        (["application/json;q=0"], False),
        (["application/json;q=0, application/*"], True),
        (["application/json;q=0, application/problem+json;q=0, application/*"], False),
        (["application/json;q=2"], False),
        (["application/json;q=NaN"], False),
        (["application/json;q"], False),
        (["application/jsonp"], False),
        ([";,;=,"], False),
    ],
)
def test_who_gets_json_errors(accept: list[str], json: bool) -> None:
    assert wants_json(accept) is json


@given(st.lists(st.text(st.sampled_from("aplicton/jsx*;q=0.15, \u00e9"), max_size=40), max_size=3))
def test_any_accept_header_is_judged(values: list[str]) -> None:
    assert wants_json(values) in {True, False}


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ([], None),
        (["wait=10"], 10.0),
        (['wait="10"'], 10.0),
        (["Wait = 7; x=y"], 7.0),
        (["return=minimal", "wait=5"], 5.0),
        (["wait=5, wait=9"], 5.0),
        (["wait"], None),
        (["wait=0"], None),
        (["wait=-1"], None),
        (["wait=1e9"], None),
        (["wait=" + "9" * 400], None),
        (["wait=\u0665"], None),
    ],
)
def test_prefer_wait(prefer: list[str], seconds: float | None) -> None:
    assert preferred_wait(prefer) == seconds


@given(st.lists(st.text(max_size=30), max_size=3))
def test_any_prefer_header_is_a_positive_time_or_none(values: list[str]) -> None:
    wait = preferred_wait(values)
    assert wait is None or wait > 0
