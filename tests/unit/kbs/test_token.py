from __future__ import annotations

import base64
import collections
import json
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.config import limits
from agent.config.model import KeyAlgorithm
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.kbs.cookies import Cookie, Jar, Place
from agent.kbs.credential import SessionRef
from agent.kbs.keys import TeeKey
from agent.kbs.token import (
    Held,
    KbsToken,
    decode_token,
    encode_token,
    held_token,
    refresh_due,
    token_identity,
    wipe_when_dropped,
)
from agent.secret import Secret
from tests.unit.kbs import PROPERTY, outcome

KEY = TeeKey.generate(KeyAlgorithm.EC_P256)
WALL = 1_790_000_000.0


def part(value: object) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def jwt(payload: object) -> Secret:
    return Secret(f"{part({'alg': 'ES256', 'typ': 'JWT'})}.{part(payload)}.{part(b'signature')}".encode())


def clock() -> FakeClock:
    return FakeClock(boot=1000.0, wall=WALL)


def life(payload: object) -> float:
    return held_token(jwt(payload), KEY, clock()).expires - 1000.0


def test_life_is_counted_from_receipt_whatever_the_wall_clock_says() -> None:
    assert life({"iat": 1_760_426_134, "exp": 1_760_426_434, "iss": "CoCo-Attestation-Service"}) == 300.0


@pytest.mark.parametrize(
    ("payload", "seconds"),
    [
        ({"exp": WALL + 120}, 120.0),
        ({"exp": WALL + 120, "iat": None}, 120.0),
        ({"exp": WALL - 1}, 0.0),
        ({"exp": 100, "iat": 200}, 0.0),
        ({"exp": 1.5, "iat": 1}, 0.5),
        ({}, limits.TOKEN_DEFAULT_LIFE),
        ({"iat": 5, "nbf": 5}, limits.TOKEN_DEFAULT_LIFE),
        ({"exp": 10**15, "iat": 0}, limits.TOKEN_MAX_LIFE),
        ({"exp": 1e300, "iat": -1e300}, limits.TOKEN_MAX_LIFE),
    ],
)
def test_life(payload: object, seconds: float) -> None:
    assert life(payload) == seconds


@pytest.mark.parametrize(
    "payload",
    [
        {"exp": "soon"},
        {"exp": True},
        {"iat": []},
        {"nbf": {}},
        [],
        "text",
        b"{",
        b"",
        b'{"exp": 1e999}',
        b'{"exp": ' + b"9" * 400 + b"}",
        b"[" * 20000,
        b'{"x":' * 20000,
    ],
)
def test_garbage_payload(payload: object) -> None:
    with pytest.raises(AgentError) as caught:
        life(payload)
    assert caught.value.code is ErrorCode.KBS_BAD_RESPONSE


@pytest.mark.parametrize(
    "text",
    [b"", b"e30", b"e30.e30", b"e30.e30.", b".e30.e30", b"e30.e30.e30.e30", b"e30=.e30.e30", b"e30.e3 0.e30"],
)
def test_not_a_jwt(text: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        held_token(Secret(text), KEY, clock())
    assert caught.value.code is ErrorCode.KBS_BAD_RESPONSE


def test_size_is_bounded() -> None:
    huge = {"pad": "x" * limits.KBS_MAX_TOKEN}
    with pytest.raises(AgentError):
        held_token(jwt(huge), KEY, clock())


def test_it_does_not_print() -> None:
    token = held_token(jwt({"exp": 300, "iat": 0}), KEY, clock())
    assert (
        repr(token)
        == "KbsToken(jwt=***, key=TeeKey(ECDH-ES+A256KW-P256), expires=1300.0, session=None, identity='')"
    )


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.EC_P256, KeyAlgorithm.EC_P521, KeyAlgorithm.RSA])
def test_export_is_what_the_rust_hub_reads(algorithm: KeyAlgorithm) -> None:
    token = held_token(jwt({"exp": WALL + 300, "iat": WALL}), TeeKey.generate(algorithm), clock())
    exported = encode_token(token)
    document = json.loads(exported.reveal())
    assert list(document) == ["token", "tee_keypair"]
    assert document["token"].encode() == token.jwt.reveal()
    assert document["tee_keypair"].encode() == token.key.pem().reveal()
    back = decode_token(exported.reveal(), clock())
    assert (back.jwt, back.key.jwk(), back.expires) == (token.jwt, token.key.jwk(), token.expires)


def balanced() -> KbsToken:
    place = Place("https://kbs:443", "kbs", "/kbs/v0/auth", secure=True)
    lines = ("lb=a=b; Path=/; Secure; Max-Age=60", "route=x; Domain=kbs", "old=1; Max-Age=5")
    session = SessionRef(Secret(b"id"), "https://kbs", 1300.0, Jar().updated(lines, place, "", 1000.0))
    return KbsToken(jwt({"iat": WALL, "exp": WALL + 300}), KEY, 1300.0, session)


def test_the_cookies_of_a_balancer_go_along_with_a_session() -> None:
    token = balanced()
    body = encode_token(token, FakeClock(boot=1010.0, wall=WALL)).reveal()
    back = decode_token(body, FakeClock(boot=50.0, wall=WALL)).session
    assert back is not None
    place = Place("https://kbs:443", "kbs", "/kbs/v0/attest", secure=True)
    assert back.jar.header(place, 50.0) == "route=x; lb=a=b"
    assert back.jar.header(place, 99.0) == "route=x; lb=a=b"
    assert back.jar.header(place, 101.0) == "route=x"
    assert (back.cookie.reveal(), back.until) == (b"id", 340.0)


def test_a_session_of_an_older_agent_has_no_other_cookies() -> None:
    plain = replace(balanced(), session=SessionRef(Secret(b"id"), "https://kbs", 1300.0))
    document = json.loads(encode_token(plain, clock()).reveal())
    assert list(document["session"]) == ["cookie", "endpoint", "seconds"]
    back = decode_token(json.dumps(document).encode(), clock()).session
    assert back is not None
    assert back.jar.cookies == ()


@pytest.mark.parametrize(
    "change",
    [
        {"value": "a; kbs-session-id=b"},
        {"value": "a\r\nX: y"},
        {"name": "a=b"},
        {"name": ""},
        {"name": "kbs-session-id"},
        {"path": "relative"},
        {"seconds": -5},
        {"seconds": 1e999},
    ],
)
def test_a_cookie_that_may_not_stand_in_a_head_does_not_come_in(change: dict[str, object]) -> None:
    document = json.loads(encode_token(balanced(), clock()).reveal())
    document["session"]["others"][0].update(change)
    body = json.dumps(document).replace("Infinity", "1e999").encode()
    try:
        session = decode_token(body, clock()).session
    except AgentError as error:
        assert error.code is ErrorCode.KBS_BAD_RESPONSE  # noqa: PT017 - either way nothing of it is used
        return
    assert session is not None
    place = Place("https://kbs:443", "kbs", "/kbs/v0/attest", secure=True)
    assert session.jar.header(place, 1000.0) == "route=x; old=1"


def test_no_more_cookies_come_in_than_a_session_keeps() -> None:
    document = json.loads(encode_token(balanced(), clock()).reveal())
    document["session"]["others"] *= 100
    session = decode_token(json.dumps(document).encode(), clock()).session
    assert session is not None
    assert len(session.jar.cookies) == limits.KBS_COOKIES


def exported(payload: object) -> bytes:
    return encode_token(KbsToken(jwt(payload), KEY, 0.0)).reveal()


@pytest.mark.parametrize(
    ("wall", "seconds"),
    [
        (0.0, 300.0),
        (100.0, 200.0),
        (-5000.0, 300.0),  # a slow wall clock cannot lengthen it
        (5000.0, 300.0),  # a fast one cannot make every token look expired
    ],
)
def test_time_spent_at_the_other_agent_counts(wall: float, seconds: float) -> None:
    body = exported({"iat": WALL, "exp": WALL + 300})
    assert decode_token(body, FakeClock(boot=1000.0, wall=WALL + wall)).expires == 1000.0 + seconds


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"null",
        b'{"token":"e30.e30.e30"}',
        b'{"token":"e30.e30.e30","tee_keypair":"none"}',
        b'{"token":"e30.e30.e30","tee_keypair":5}',
        b'{"token":"\xc3\xa9.e30.e30","tee_keypair":""}',
        b" " * (limits.KBS_MAX_TOKEN + 1),
    ],
)
def test_garbage_export(body: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        decode_token(body, clock())
    assert caught.value.code is ErrorCode.KBS_BAD_RESPONSE


# --- a token in use -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("now", "last_used", "while_used", "due"),
    [
        (99.9, 99.0, 300.0, False),
        (100.0, 99.0, 300.0, True),
        (400.0, 100.0, 300.0, True),
        (400.1, 100.0, 300.0, False),  # idle
        (500.0, 500.0, 0.0, False),  # never in the background
    ],
)
def test_a_renewal_is_due_late_in_the_life_of_a_used_token(
    now: float, last_used: float, while_used: float, due: bool
) -> None:
    assert refresh_due(now, 100.0, last_used, while_used) is due


@PROPERTY
@given(life=st.floats(-10, 100_000), received=st.floats(0, 1e7), chance=st.floats(0, 1))
def test_times_of_a_held_token_are_in_order(life: float, received: float, chance: float) -> None:
    held = Held.since(KbsToken(Secret(b"x"), KEY, received + life), received, chance)
    assert received <= held.refresh_from <= held.usable_until <= max(received, received + life)


@PROPERTY
@given(life=st.floats(1, limits.TOKEN_MAX_LIFE), chance=st.floats(0, 1))
def test_a_renewal_comes_at_seven_to_nine_tenths_of_the_life(life: float, chance: float) -> None:
    held = Held.since(KbsToken(Secret(b"x"), KEY, 1000.0 + life), 1000.0, chance)
    assert 0.7 * life - 1e-6 <= held.refresh_from - 1000.0 <= 0.9 * life + 1e-6


def test_renewals_spread_evenly_around_eight_tenths() -> None:
    token = KbsToken(Secret(b"x"), KEY, 1300.0)
    drawn = random.Random(7)  # noqa: S311 - the same numbers each time
    waits = [Held.since(token, 1000.0, drawn.random()).refresh_from - 1000.0 for _ in range(2000)]
    assert statistics.mean(waits) == pytest.approx(240, abs=1)
    # An even spread over 60 s: no tenth of it gets more than its share by much.
    tenths = collections.Counter(int((wait - 210) // 6) for wait in waits)
    assert len(tenths) == 10
    assert max(tenths.values()) < 300


IDENTITY = (("https://one", "https://two"), "text", "snp", ("nvidia", "hygondcu"), KeyAlgorithm.EC_P256)


def test_an_identity_does_not_depend_on_the_order_of_devices() -> None:
    *rest, devices, algorithm = IDENTITY
    assert token_identity(*rest, devices[::-1], algorithm) == token_identity(*IDENTITY)  # type: ignore[call-arg,arg-type]


@pytest.mark.parametrize(
    ("part", "other"),
    [
        (0, ("https://two", "https://one")),
        (0, ("https://onehttps://two",)),
        (1, None),
        (1, ""),
        (2, ""),
        (3, ("nvidia",)),
        (4, KeyAlgorithm.RSA),
    ],
)
def test_each_part_of_an_identity_counts(part: int, other: object) -> None:
    parts: list[object] = list(IDENTITY)
    parts[part] = other
    assert token_identity(*parts) != token_identity(*IDENTITY)  # type: ignore[arg-type]


def test_an_identity_gives_nothing_away() -> None:
    name = token_identity(*IDENTITY)
    assert len(name) == 64
    assert set(name) <= set("0123456789abcdef")


def test_a_token_is_wiped_with_its_last_holder() -> None:
    secret, cookie = Secret(b"token"), Secret(b"cookie")
    other = Cookie("lb", Secret(b"other"), "https://kbs:443", "", "/", secure=True, until=1.0)
    token = KbsToken(secret, KEY, 1.0, SessionRef(cookie, "https://kbs", 1.0, Jar((other,))))
    wipe_when_dropped(token)
    second = token
    del token
    assert secret.reveal() == b"token"
    del second
    assert len(secret) == len(cookie) == len(other.value) == 0


SCALAR = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))


@PROPERTY
@given(
    st.one_of(
        st.binary(max_size=60),
        st.dictionaries(st.sampled_from(["exp", "iat", "nbf", "x"]), SCALAR).map(
            lambda x: json.dumps(x).encode()
        ),
    )
)
def test_property_payload(payload: bytes) -> None:
    now = clock()
    token = outcome(ErrorCode.KBS_BAD_RESPONSE, lambda: held_token(jwt(payload), KEY, now))
    assert token is None or 0.0 <= token.expires - now.boot() <= limits.TOKEN_MAX_LIFE


@PROPERTY
@given(st.binary(max_size=60), st.text(alphabet="ae30.-_=", max_size=20))
def test_property_bytes(body: bytes, text: str) -> None:
    outcome(ErrorCode.KBS_BAD_RESPONSE, lambda: decode_token(body, clock()))
    outcome(ErrorCode.KBS_BAD_RESPONSE, lambda: held_token(Secret(text.encode()), KEY, clock()))
