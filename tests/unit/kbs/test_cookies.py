from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import limits
from agent.kbs.cookies import (
    SESSION,
    Cookie,
    Jar,
    Place,
    bounded,
    cookie_date,
    path_match,
    read_line,
)
from agent.secret import Secret
from tests.unit.kbs import PROPERTY

NOW = 1000.0
DATE = "Sun, 22 Nov 2026 12:00:00 GMT"


def at(path: str, *, host: str = "kbs.example.com", secure: bool = True, port: int = 443) -> Place:
    return Place(f"{'https' if secure else 'http'}://{host}:{port}", host, path, secure)


AUTH, ATTEST, FETCH = at("/kbs/v0/auth"), at("/kbs/v0/attest"), at("/kbs/v0/resource/default/key/1")


def jar(*lines: str, place: Place = AUTH, date: str = DATE, now: float = NOW) -> Jar:
    return Jar().updated(lines, place, date, now)


def sent(*lines: str, to: Place = ATTEST, now: float = NOW) -> str:
    return jar(*lines).header(to, now)


# --- what balancers set ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("line", "pair"),
    [
        ("AWSALB=a+b/c==; Expires=Sun, 29 Nov 2026 12:00:00 GMT; Path=/", "AWSALB=a+b/c=="),
        ("AWSALBCORS=x; Expires=Sun, 29 Nov 2026 12:00:00 GMT; SameSite=None; Secure", "AWSALBCORS=x"),
        (
            "BIGipServer~Common~kbs=16777.36895.0000; path=/; Httponly",
            "BIGipServer~Common~kbs=16777.36895.0000",
        ),
        ("ARRAffinity=4f1c; Path=/; HttpOnly; Secure; Domain=kbs.example.com", "ARRAffinity=4f1c"),
        ("SERVERID=s2; path=/", "SERVERID=s2"),
        ("SERVERID=s2|Zq|Zr; path=/", "SERVERID=s2|Zq|Zr"),
        ('istio="1a2b3c"; Max-Age=3600; HttpOnly', 'istio="1a2b3c"'),
        (
            "route=1668.1.2|abc; Expires=Sun, 22-Nov-26 13:00:00 GMT; Max-Age=3600; Path=/kbs",
            "route=1668.1.2|abc",
        ),
        ("r=x; EXPIRES=Thu, 31-Dec-37 23:55:55 GMT; DOMAIN=.example.com; PATH=/", "r=x"),
        (" lb = a=b=c , d ;", "lb=a=b=c , d"),
        ("empty=", "empty="),
        ("__Host-lb=1; Secure; Path=/", "__Host-lb=1"),
        ("__Secure-lb=1; Secure; Domain=example.com", "__Secure-lb=1"),
        (f"big={'v' * 4096}", f"big={'v' * 4096}"),
        ("lb=1; Path=relative", "lb=1"),
        ("lb=1; Path=", "lb=1"),
        ("lb=1; Path=/other; Path=/kbs/v0", "lb=1"),
        ("lb=1; Max-Age=soon; Expires=later", "lb=1"),
        ("lb=1; Domain=", "lb=1"),
    ],
)
def test_a_balancers_cookie_goes_back_as_it_came(line: str, pair: str) -> None:
    assert sent(line) == pair


@pytest.mark.parametrize(
    "line",
    [
        "",
        ";",
        "no-pair; Path=/",
        "=nameless",
        "a b=1",
        "lb=a\rb",
        "lb=a\nb",
        "lb=a\tb",
        "lb=\x7f",
        "lb=\u00e9",
        "l\u00e9=1",
        f"lb={'v' * 4097}",
        f"{'n' * 257}=1",
        "lb=1; Path=/kbs/v0/auth",
        "lb=1; Path=/kbs/v",
        f"lb=1; Path=/{'p' * 1024}",
        "lb=1; Max-Age=0",
        "lb=1; Max-Age=-5; Expires=Sun, 29 Nov 2026 12:00:00 GMT",
        "lb=1; Expires=Thu, 01-Jan-1970 00:00:01 GMT",
        "lb=1; Expires=Sun, 22 Nov 2026 11:59:59 GMT",
        "lb=1; Domain=other.com",
        "lb=1; Domain=bs.example.com",
        "lb=1; Domain=a.kbs.example.com",
        "__Host-lb=1; Secure; Path=/; Domain=kbs.example.com",
        "__Host-lb=1; Secure; Path=/kbs",
        "__Host-lb=1; Secure",
        "__host-lb=1; Path=/",
        "__Secure-lb=1; Path=/",
        "kbs-session-id=abc; Path=/",
    ],
)
def test_what_is_none_or_not_for_this_request_is_not_sent(line: str) -> None:
    assert not sent(line)


def test_a_cookie_for_tls_is_neither_taken_nor_sent_without() -> None:
    assert not jar("lb=1; Secure; Path=/", place=at("/kbs/v0/auth", secure=False)).cookies
    moved = Cookie("lb", Secret(b"1"), at("/", secure=False).origin, "", "/", True, math.inf)
    assert not Jar((moved,)).header(at("/", secure=False), NOW)


@pytest.mark.parametrize(
    "place",
    [
        at("/kbs/v0/attest", port=8443),
        at("/kbs/v0/attest", host="other.example.com"),
        at("/kbs/v0/attest", host="example.com"),
        at("/kbs/v0/attest", secure=False),
    ],
)
def test_a_cookie_goes_nowhere_else_whatever_its_domain(place: Place) -> None:
    assert not sent("lb=1; Path=/; Domain=example.com", to=place)


def test_an_address_has_no_parent_domain() -> None:
    here = at("/a", host="10.0.0.1")
    assert not jar("lb=1; Domain=0.0.1", place=here).cookies
    assert jar("lb=1; Domain=10.0.0.1", place=here).cookies
    assert not jar("lb=1; Domain=:1", place=at("/a", host="::1")).cookies


# --- lives ----------------------------------------------------------------------------------------
def test_lives_are_counted_by_the_senders_clock() -> None:
    kept = jar("a=1; Max-Age=10", "b=2; Expires=Sun, 22 Nov 2026 12:00:20 GMT", "c=3")
    assert kept.header(ATTEST, NOW + 9) == "a=1; b=2; c=3"
    assert kept.header(ATTEST, NOW + 10) == "b=2; c=3"
    assert kept.header(ATTEST, NOW + 20) == "c=3"
    assert kept.header(ATTEST, NOW + 1e9) == "c=3"
    assert jar("a=1; Max-Age=999999999999").header(ATTEST, NOW + limits.SESSION_MAX_LIFE) == ""


def test_without_a_date_only_times_long_past_are_over() -> None:
    lines = ("a=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "b=2; Expires=Sun, 22 Nov 2099 12:00:00 GMT")
    assert jar(*lines, date="").header(ATTEST, NOW) == "b=2"


def test_a_later_cookie_replaces_or_deletes_its_own_kind_only() -> None:
    kept = jar("lb=1; Path=/", "lb=2; Path=/kbs/v0", "x=3; Path=/", "lb=5; Path=/; Domain=example.com")
    assert kept.header(ATTEST, NOW) == "lb=2; lb=1; x=3; lb=5"  # the longest path first
    kept = kept.updated(("lb=4; Path=/",), ATTEST, DATE, NOW)
    assert kept.header(ATTEST, NOW) == "lb=2; x=3; lb=5; lb=4"
    kept = kept.updated(("lb=; Path=/kbs/v0; Max-Age=0",), ATTEST, DATE, NOW)
    assert kept.header(ATTEST, NOW) == "x=3; lb=5; lb=4"


def test_a_cookie_without_path_is_for_the_folder_that_set_it() -> None:
    assert sent("lb=1", to=FETCH) == "lb=1"
    there = jar("lb=1", place=FETCH)
    assert there.header(at("/kbs/v0/resource/default/key/2"), NOW) == "lb=1"
    assert not there.header(ATTEST, NOW)
    assert jar("lb=1", place=at("/auth")).header(ATTEST, NOW) == "lb=1"


# --- bounds ---------------------------------------------------------------------------------------
def test_the_latest_are_kept_within_number_and_size() -> None:
    many = sent(*(f"c{number}=v" for number in range(limits.KBS_COOKIES + 10)))
    assert len(many.split("; ")) == limits.KBS_COOKIES
    assert many.startswith("c10=v; ")
    large = sent(*(f"c{number}={'v' * 4096}" for number in range(9)), "lb=small")
    assert len(large) <= limits.KBS_COOKIES_SIZE
    assert large.startswith("c5=v")
    assert large.endswith("; lb=small")


LINE = st.one_of(
    st.text(max_size=60),
    st.builds(
        "{}={}; {}={}; {}={}".format,
        st.sampled_from(["lb", "__Host-lb", "__Secure-x", "kbs-session-id", "a"]),
        st.text(max_size=20) | st.integers(0, 5000).map(lambda size: "v" * size),
        st.sampled_from(["Path", "path", "Domain", "Max-Age", "Secure", "Expires"]),
        st.sampled_from(["/", "/kbs", "example.com", ".example.com", "0", "60", "", DATE]),
        st.sampled_from(["Max-Age", "Secure", "EXPIRES"]),
        st.text(max_size=10),
    ),
)


@PROPERTY
@given(st.lists(st.lists(LINE, max_size=12), max_size=4), st.text(max_size=30), st.floats(0, 1e6))
def test_whatever_is_set_what_goes_back_is_one_harmless_line(
    answers: list[list[str]], date: str, later: float
) -> None:
    kept = Jar()
    for lines in answers:
        kept = kept.updated(lines, AUTH, date, NOW)
        assert len(kept.cookies) <= limits.KBS_COOKIES
        assert sum(one.size for one in kept.cookies) <= limits.KBS_COOKIES_SIZE
        assert len({one.identity for one in kept.cookies}) == len(kept.cookies)
    text = kept.header(FETCH, NOW + later)
    assert text.isascii()
    assert text.isprintable()
    pairs = [pair for pair in text.split("; ") if pair]
    assert len(pairs) <= len(kept.cookies)
    assert all("=" in pair for pair in pairs)
    assert SESSION not in {pair.partition("=")[0] for pair in pairs}
    assert not kept.header(at("/kbs/v0/attest", host="thief.example.com"), NOW)


@PROPERTY
@given(st.text(max_size=200))
def test_any_line_is_read_or_left_out(line: str) -> None:
    read = read_line(line)
    if read is not None:
        assert f"{read.name}{read.value}".isascii()
        assert not set(read.value) & set(";\r\n\0")


def test_nothing_of_it_is_printed() -> None:
    kept = jar("canary-name=canary-value; Path=/")
    assert "canary" not in repr(kept)
    assert "canary-value" not in f"{kept.cookies!r} {read_line('a=canary-value')!r}"
    kept.wipe()
    assert "canary-value" not in kept.header(ATTEST, NOW)
    assert bounded(()) == ()


# --- dates and paths ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777.0),
        ("Sun Nov  6 08:49:37 1994", 784111777.0),
        ("06 november 1994 8:49:37", 784111777.0),
        ("Thu, 01-Jan-1970 00:00:00 GMT", 0.0),
        ("Thu, 31-Dec-37 23:55:55 GMT", 2145916555.0),
        ("Fri, 31 Dec 1969 23:59:59 GMT", -1.0),
        ("", None),
        ("0", None),
        ("-1", None),
        ("Sun, 31 Feb 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 25:49:37 GMT", None),
        ("Sun, 06 Nov 1994", None),
    ],
)
def test_dates_in_every_form_that_balancers_send(text: str, seconds: float | None) -> None:
    assert cookie_date(text) == seconds


@PROPERTY
@given(st.text(max_size=80) | st.from_regex(r"[0-9]{1,2}[- ](Jan|feb)[- ][0-9]{1,5} [0-9:]{0,9}"))
def test_any_date_is_read_or_none(text: str) -> None:
    read = cookie_date(text)
    assert read is None or math.isfinite(read)


@pytest.mark.parametrize(
    ("asked", "path", "matches"),
    [
        ("/kbs", "/kbs", True),
        ("/kbs/v0", "/kbs", True),
        ("/kbs/v0", "/kbs/", True),
        ("/kbs", "/kbs/", False),
        ("/kbsx", "/kbs", False),
        ("/x", "/", True),
    ],
)
def test_paths_match_by_whole_segments(asked: str, path: str, matches: bool) -> None:
    assert path_match(asked, path) is matches
