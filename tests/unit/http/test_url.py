from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import urls
from agent.http.url import Url
from tests.unit.kbs import PROPERTY


@pytest.mark.parametrize(
    ("text", "origin", "target", "host_header"),
    [
        ("http://kbs", ("http", "kbs", 80), "/", "kbs"),
        ("https://kbs", ("https", "kbs", 443), "/", "kbs"),
        ("HTTPS://KBS.Example:443/A", ("https", "kbs.example", 443), "/A", "kbs.example"),
        ("http://kbs:8080/a%2Fb//c?x=%20&y", ("http", "kbs", 8080), "/a%2Fb//c?x=%20&y", "kbs:8080"),
        ("http://kbs?x", ("http", "kbs", 80), "/?x", "kbs"),
        ("http://kbs./a/../b", ("http", "kbs", 80), "/a/../b", "kbs"),
        ("http://127.0.0.1:1", ("http", "127.0.0.1", 1), "/", "127.0.0.1:1"),
        ("https://[::1]:65535/", ("https", "::1", 65535), "/", "[::1]:65535"),
        ("https://[2001:DB8::1]", ("https", "2001:db8::1", 443), "/", "[2001:db8::1]"),
    ],
)
def test_what_it_reads(text: str, origin: tuple[str, str, int], target: str, host_header: str) -> None:
    url = Url.parse(text)
    assert (url.origin, url.target, url.authority, url.user) == (origin, target, host_header, None)
    assert str(url) == f"{origin[0]}://{host_header}{target}"
    assert url.secure is (origin[0] == "https")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kbs",
        "//kbs",
        "ftp://kbs",
        "http:kbs",
        "http://",
        "http:///x",
        "http://kbs:",
        "http://kbs:0",
        "http://kbs:65536",
        "http://kbs:8o",
        "http://kbs:-1",
        "http://kbs:80:80",
        "http://user@kbs",
        "http://user:password@kbs",
        "http://@kbs",
        "http://kbs#x",
        "http://kbs/#x",
        "http://kbs\\@attacker",
        "http://kbs/\\x",
        "http://kbs/a b",
        "http://kbs/a\r\nHost: x",
        "http://kbs\n",
        "http://k\u00e4s",
        "http://kbs/\u00e4",
        "http://k%62s",
        "http://[::1",
        "http://::1",
        "http://[kbs]",
        "http://[::1%25eth0]",
        "http://[127.0.0.1]",
        "http://127.0.0.256",
        "http://127.1",
        "http://-kbs",
        "http://a..b",
        "http://kbs/" + "x" * 20_000,
    ],
)
def test_what_it_refuses(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        Url.parse(text)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "user", "password"),
    [
        ("http://user:pass@proxy:3128", b"user", b"pass"),
        ("http://user@proxy", b"user", b""),
        ("http://:pass@proxy", b"", b"pass"),
        ("http://a%40b:c%3Ad%C3%A4%FF:e@proxy", b"a@b", b"c:d\xc3\xa4\xff:e"),
        ("https://proxy", None, b""),
    ],
)
def test_credentials_of_a_proxy(text: str, user: bytes | None, password: bytes) -> None:
    url = Url.parse(text, credentials=True)
    assert (url.user, url.password) == (user, password)
    for shown in (str(url), repr(url)):
        assert "pass" not in shown
        assert "user" not in shown


NEAR = st.lists(
    st.sampled_from(
        (
            *("http", "s", "://", ":", "/", "//", "@", "[", "]", "::1", "kbs", ".", "-", "8080", "?", "#"),
            *("%", "\\", "127.0.0.1", "..", "user", "\t", "\u212a", "xn--", "_"),
        )
    ),
    max_size=10,
).map("".join)


@PROPERTY
@given(st.text(max_size=60) | NEAR | NEAR.map("http://{}".format))
def test_every_text_is_a_url_or_a_value_error(text: str) -> None:
    try:
        url = Url.parse(text)
    except ValueError:
        return
    # What it read it writes, and reads again as the same.
    assert Url.parse(str(url)).origin == url.origin
    assert Url.parse(str(url)).target == url.target
    # Another reader goes to the same place.
    parts = urlsplit(text)
    assert (parts.scheme, parts.hostname, parts.username) == (url.scheme, url.host, None)
    assert (parts.port or {"http": 80, "https": 443}[parts.scheme]) == url.port
    assert all("!" <= char <= "~" for char in url.target + url.authority)


@PROPERTY
@given(NEAR.map("http://{}".format) | NEAR.map("https://{}".format), st.booleans())
def test_what_a_configuration_takes_can_be_sent_to(text: str, credentials: bool) -> None:
    if urls.problem(text, credentials=credentials):
        return
    try:
        assert Url.parse(text, credentials=credentials).host == urls.host(text)
    except ValueError:
        # An empty user, or a character in one that has to be percent-encoded.
        assert "@" in text
