from __future__ import annotations

import re
import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import AgentError, ErrorCode
from agent.observe.redact import MAX_SCRUBBED, ResourceNames, locations, safe_argument
from agent.secret import Secret

HIDDEN = ResourceNames(shown=False)
SHOWN = ResourceNames(shown=True)
URI = "kbs:///default/key/1"


def test_a_digest_is_short_stable_and_keyed() -> None:
    assert re.fullmatch(r"#[0-9a-f]{12}", HIDDEN.digest(URI))
    assert HIDDEN.digest(URI) == SHOWN.digest(URI) == HIDDEN.digest(URI.encode())
    assert ResourceNames(shown=False, key=b"k" * 32).digest(URI) != HIDDEN.digest(URI)
    assert HIDDEN.digest("\ud800")


@pytest.mark.parametrize("uri", [URI, "kbs+nebula-ca:///a/b", "kbs://kbs.example:8080/a/b/c%20d"])
def test_names_show_only_when_asked_for(uri: str) -> None:
    assert SHOWN.show(uri) == uri
    assert HIDDEN.show(uri) == HIDDEN.digest(uri)


def test_a_query_never_shows() -> None:
    assert SHOWN.show(f"{URI}?password=c4n4ry") == URI
    assert SHOWN.show(f"{URI}#c4n4ry") == URI


@pytest.mark.parametrize(
    "uri", ["hunter2", "kbs://user:c4n4ry@host/a", "kbs:///a\nb", "", "kbs:///" + "a" * 5000, "https://x/y"]
)
def test_what_is_no_resource_uri_never_shows(uri: str) -> None:
    assert SHOWN.show(uri) == SHOWN.digest(uri)


@pytest.mark.parametrize(
    ("text", "leak"),
    [
        ("GET https://kbs.example:8080/kbs/v0/resource/default/key/1", "example"),
        ("GET /kbs/v0/resource/default/key/1 failed", "default"),
        ("default/key/1: not found", "default/key"),
        ("default/key/1/2: not found", "key"),
        ("asked for kbs:///default/key/1?x=y", "default"),
        ("Bearer abc.def", "abc"),
        ("http://127.0.0.1:8006.evil.example", "evil"),
        ("http://127.0.0.1:8006/cdh/resource/default/key/1", "default"),
        ("basic dXNlcjpwYXNz", "dXN"),
        ("got eyJhbGciOiJFUzM4NCJ9.e30.c2ln and more", "eyJ"),
        ("sealed.eyJ.fff.ggg", "ggg"),
        ("-----BEGIN PRIVATE KEY-----\nMIG\n-----END PRIVATE KEY-----", "MIG"),
        ("-----BEGIN PRIVATE KEY-----\nMIG", "MIG"),
        ("Cookie: kbs-session-id=abc; other=def", "def"),
        ('{"token":"abc","tee_keypair":"def"}', "abc"),
        ("password=hunter2", "hunter2"),
    ],
)
def test_secrets_and_names_are_found_in_text(text: str, leak: str) -> None:
    assert leak not in HIDDEN.scrub(text)


def test_a_shown_address_has_no_user_and_no_query() -> None:
    text = SHOWN.scrub("proxy http://user:c4n4ry@proxy:3128/path?token=c4n4ry#frag refused")
    assert text == "proxy http://proxy:3128/path refused"


@pytest.mark.parametrize(
    "text",
    [
        "connection refused",
        "/etc/attestation-agent.conf: larger than 2097152 bytes",
        "unix:///run/confidential-containers/cdh.sock",
        "listening on http://127.0.0.1:8006 and http://[::1]:8006/",
        "content type application/json",
        "time ran out while collecting snp evidence",
        "tee/platform.py:12 detect < serve/front.py:3 get_resource",
    ],
)
def test_what_helps_the_operator_stays(text: str) -> None:
    assert HIDDEN.scrub(text) == text


def test_the_resource_of_a_request_is_hidden_in_every_form() -> None:
    text = HIDDEN.hide("kbs:///a/b?x=1", "kbs:///a/b?x=1 or a/b?x=1 or a/b")
    assert "a/b" not in text
    assert SHOWN.hide(URI, URI) == URI
    assert HIDDEN.hide("", "text") == "text"


@pytest.mark.parametrize(
    "piece", ["a", "a.", "a/", "-----BEGIN ", "eyJ", "://", "bearer ", "token=", " ", "-", '"', "kbs://"]
)
def test_hostile_text_takes_no_time(piece: str) -> None:
    began = time.process_time()
    HIDDEN.scrub(piece * (MAX_SCRUBBED // len(piece) + 1000))
    assert time.process_time() - began < 1.0


@settings(max_examples=200)
@given(st.text(max_size=200), st.text("ABCxyz019-_", min_size=8, max_size=40))
def test_a_jwt_is_found_wherever_it_stands(text: str, rest: str) -> None:
    assert f"eyJ{rest}" not in HIDDEN.scrub(f"{text} eyJ{rest} {text}")


def test_harmless_arguments_pass_and_others_become_their_kind() -> None:
    for value in (None, True, 3, 1.5, "text"):
        assert safe_argument(value) == value
    assert str(safe_argument(Secret(b"c4n4ry"))) == "***"
    assert safe_argument(b"c4n4ry") == "<6 bytes>"
    assert safe_argument(ValueError("c4n4ry")) == "ValueError"
    assert safe_argument(AgentError(ErrorCode.NO_TEE, "why")) == "NO_TEE: why"
    assert safe_argument(Path("/etc/x")) == "/etc/x"
    assert safe_argument({"key": "c4n4ry"}) == "<dict>"
    assert safe_argument(IPv4Address("127.0.0.1")) == "<IPv4Address>"


def test_locations_show_places_and_no_values() -> None:
    def inner(value: str) -> None:
        raise ValueError(value)

    try:
        inner("c4n4ry")
    except ValueError as error:
        text = locations(error)
    first, second = text.split(" < ")
    assert re.fullmatch(r"observe/test_redact\.py:\d+ inner", first)
    assert second.endswith("test_locations_show_places_and_no_values")
    assert "c4n4ry" not in text
    assert locations(ValueError("never raised")) == ""
