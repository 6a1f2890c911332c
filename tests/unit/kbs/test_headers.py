from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.http.url import Url
from agent.kbs.credential import SessionRef
from agent.kbs.headers import Cookies, same_resource, session_cookie
from agent.secret import Secret
from tests.unit.kbs import PROPERTY

BASE = "https://kbs.example/base"
DATE = "Sun, 22 Nov 2026 12:00:00 GMT"
ATTEST = Url.parse(f"{BASE}/kbs/v0/attest")


def session() -> SessionRef:
    return SessionRef(Secret(b"abc"), BASE, 1300.0)


# --- cookies of an exchange -----------------------------------------------------------------------
def test_the_sessions_cookie_is_found_behind_any_number_of_others() -> None:
    others = tuple(f"lb{number}={'v' * 500}; Path=/" for number in range(60))
    assert session_cookie((*others, "kbs-session-id=abc")) == "abc"
    assert session_cookie(("kbs-session-id=abc", *others)) == "abc"


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (("kbs-session-id=a", "kbs-session-id=b; Path=/x"), "b"),
        (("kbs-session-id=a", "kbs-session-id=; Max-Age=0"), "a"),
        (("kbs-session-id=a", "kbs-session-id=b; Expires=Thu, 01-Jan-1970 00:00:01 GMT"), "a"),
        (("kbs-session-id=a; Secure; Domain=elsewhere.example; Path=/auth",), "a"),
    ],
)
def test_of_several_session_cookies_the_last_that_lives_counts(lines: tuple[str, ...], found: str) -> None:
    assert session_cookie(lines, DATE) == found


def test_a_session_goes_with_the_cookies_of_its_endpoint_and_alone_without() -> None:
    held = session()
    cookies = Cookies(held)
    assert cookies.header(ATTEST, 1000.0) == {"Cookie": "kbs-session-id=abc"}
    cookies.heard(ATTEST, ("AWSALB=1; Path=/", "kbs-session-id=abc"), DATE, 1000.0)
    assert cookies.header(ATTEST, 1000.0) == {"Cookie": "kbs-session-id=abc; AWSALB=1"}
    assert Cookies(held).header(ATTEST, 1000.0) == {"Cookie": "kbs-session-id=abc; AWSALB=1"}
    assert held.until == 1300.0  # the same id without a life of its own: nothing new


def test_without_a_session_cookies_last_for_the_exchange() -> None:
    cookies = Cookies()
    assert cookies.header(ATTEST, 1000.0) == {}
    cookies.heard(ATTEST, ("lb=1; Path=/", "kbs-session-id=abc"), DATE, 1000.0)
    assert cookies.header(ATTEST, 1000.0) == {"Cookie": "lb=1"}
    assert Cookies().header(ATTEST, 1000.0) == {}


@pytest.mark.parametrize(
    ("line", "cookie", "until"),
    [
        ("kbs-session-id=abc; Max-Age=60", b"abc", 1160.0),
        ("kbs-session-id=new; Expires=Sun, 22 Nov 2026 12:01:00 GMT", b"new", 1160.0),
        ("kbs-session-id=new", b"new", 1100.0 + limits.SESSION_LIFE),
        ("kbs-session-id=new; Max-Age=99999999", b"new", 1100.0 + limits.SESSION_MAX_LIFE),
        ("kbs-session-id=; Max-Age=0", b"abc", 1100.0),
        ("kbs-session-id=a b", b"abc", 1300.0),
        ('kbs-session-id="quoted"', b"abc", 1300.0),
        ("kbs-session-id=", b"abc", 1300.0),
    ],
)
def test_a_later_answer_may_replace_the_sessions_cookie(line: str, cookie: bytes, until: float) -> None:
    held = session()
    Cookies(held).heard(ATTEST, (line,), DATE, 1100.0)
    assert (held.cookie.reveal(), held.until) == (cookie, until)


# --- redirects ------------------------------------------------------------------------------------
TAIL = "/kbs/v0/ext/a%20b/c?x=%2F"
ASKED = Url.parse(f"{BASE}{TAIL}")


@pytest.mark.parametrize(
    "to",
    [
        f"{BASE}{TAIL}",
        f"/base{TAIL}",
        TAIL,
        f"/other/place{TAIL}",
        f"//kbs.example{TAIL}",
        f"HTTPS://KBS.example:443/v2{TAIL}",
    ],
)
def test_a_redirect_to_the_same_resource_is_taken_as_written(to: str) -> None:
    target = same_resource(ASKED, BASE, to)
    assert target is not None
    assert str(target).endswith(TAIL)
    assert str(target).startswith("https://kbs.example/")
    assert to.endswith(target.target)


@pytest.mark.parametrize(
    "to",
    [
        "",
        "c?x=%2F",
        "/kbs/v0/ext/a%20b/d?x=%2F",
        "/kbs/v0/ext/a%20b/c",
        "/kbs/v0/ext/a%20b/c?x=/",
        "/kbs/v0/ext/a%20b/c?x=%2f",
        "/kbs/v0/ext/a+b/c?x=%2F",
        "/kbs/v0/ext/a%2520b/c?x=%2F",
        f"{TAIL}&y",
        f"{TAIL}#f",
        f"/x/..{TAIL}",
        f"/.{TAIL}",
        f"/%2e%2e{TAIL}",
        f"/a%2Fb{TAIL}",
        f"/{TAIL}",
        f"/a/{TAIL}",
        f"/x?y={TAIL}",
        f"/x;y{TAIL}",
        f"/kbs/v0/ext/evil{TAIL}",
        f"/kbs/v0{TAIL}",
        f"/x/kbs/v0{TAIL}",
        f"/a\\b{TAIL}",
        f"http://kbs.example{TAIL}",
        f"https://kbs.example:8443{TAIL}",
        f"https://kbs.example:443443{TAIL}",
        f"https://other.example{TAIL}",
        f"https://kbs.example.{TAIL}",
        f"https://user@kbs.example{TAIL}",
        f"https://kbs.example@other{TAIL}",
        f"//other.example{TAIL}",
        f"ftp://kbs.example{TAIL}",
        f"/caf\u00e9{TAIL}",
        f"/a b{TAIL}",
        f"/{'p' * 9000}{TAIL}",
    ],
)
def test_a_redirect_to_anything_else_is_not_taken(to: str) -> None:
    assert same_resource(ASKED, BASE, to) is None


def test_an_address_in_brackets_is_known_again() -> None:
    base = "http://[::1]:8080"
    url = Url.parse(f"{base}/kbs/v0/resource/a/b/c")
    target = same_resource(url, base, f"{base}/new/kbs/v0/resource/a/b/c")
    assert str(target) == f"{base}/new/kbs/v0/resource/a/b/c"
    assert same_resource(url, base, "http://[::2]:8080/kbs/v0/resource/a/b/c") is None


def test_a_base_that_names_the_api_itself_may_be_led_to_itself() -> None:
    base = "http://kbs/kbs/v0"
    url = Url.parse(f"{base}/kbs/v0/resource/a/b/c")
    assert same_resource(url, base, "/kbs/v0/kbs/v0/resource/a/b/c") == url


@PROPERTY
@given(st.lists(st.sampled_from(["/", ".", "..", "kbs", "v0", "%2e", "ext", "a", "?", "#", TAIL, "//x"])))
def test_whatever_is_taken_ends_in_the_very_resource(parts: list[str]) -> None:
    target = same_resource(ASKED, BASE, "".join(parts))
    if target is not None:
        assert target.target.endswith(TAIL)
        assert target.target.index("/kbs/v0/") == len(target.target) - len(TAIL)
        assert (target.scheme, target.host, target.port) == ("https", "kbs.example", 443)


def test_an_answer_without_a_session_is_a_bad_one() -> None:
    with pytest.raises(AgentError) as caught:
        session_cookie(("lb=1",))
    assert caught.value.code is ErrorCode.KBS_BAD_RESPONSE
