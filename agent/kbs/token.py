"""Attestation tokens as the guest holds them.

Nothing here verifies a token: the broker that issued it is the one that reads it (kbs_protocol.md 5.5).
The guest only needs to know how long to keep it.

Life is ``exp - iat`` counted from receipt on the boot clock, with no leeway added: the guest never presents a
token past its end. What rounding to whole seconds and the way from the broker take away is covered by the
margin of :class:`Held`, and by the leeway that brokers themselves grant (60 s in Trustee).
"""

from __future__ import annotations

import hashlib
import math
import weakref
from typing import TYPE_CHECKING, Protocol

import msgspec

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.kbs import cookies
from agent.kbs.credential import COOKIE_VALUE, SessionRef
from agent.kbs.keys import TeeKey
from agent.kbs.messages import jwt_payload, parse
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.clock import Clock, Deadline
    from agent.config.model import KeyAlgorithm


class KbsToken(msgspec.Struct, frozen=True, weakref=True):
    """A token and the key pair it is bound to.

    Whoever uses one holds this object, not its ``jwt``: :func:`wipe_when_dropped`.

    Attributes:
        jwt: the compact JWT, ASCII.
        key: decrypts what the broker sends for this token.
        expires: seconds on ``clock.boot()``. Renewal before that (``limits.TOKEN_MARGIN``) is the
            holder's business.
        session: the attested session of the same handshake; None when another process attested.
        identity: :func:`token_identity` of what was attested; empty when another process attested.
    """

    jwt: Secret
    key: TeeKey
    expires: float
    session: SessionRef | None = None
    identity: str = ""


class Held(msgspec.Struct, frozen=True):
    """A token in use, and its times on the boot clock, in seconds.

    Attributes:
        token: what callers get.
        usable_until: callers no longer get it from here on.
        refresh_from: it may be renewed in the background from here on.
    """

    token: KbsToken
    usable_until: float
    refresh_from: float

    @classmethod
    def since(cls, token: KbsToken, received: float, chance: float) -> Held:
        """Times for a token that was received just now.

        It may be renewed from ``limits.TOKEN_REFRESH_AT`` of its life on, give or take
        ``limits.TOKEN_REFRESH_SPREAD``. The margin before its end is ``limits.TOKEN_MARGIN``, but at most a
        tenth of its life, so that also a short-lived token is renewed before anybody has to wait.

        Args:
            token: the token.
            received: boot clock.
            chance: 0 to 1, drawn for this token: guests that booted together do not renew together.
        """
        life = max(0.0, token.expires - received)
        usable = received + life - min(limits.TOKEN_MARGIN, life / 10)
        share = limits.TOKEN_REFRESH_AT + limits.TOKEN_REFRESH_SPREAD * (2 * chance - 1)
        return cls(token, usable, min(usable, received + share * life))


def refresh_due(now: float, refresh_from: float, last_used: float, while_used: float) -> bool:
    """Whether to renew in the background. A guest that uses no token stops attesting.

    Args:
        now: seconds on the boot clock.
        refresh_from: earliest time for it, same clock.
        last_used: when somebody last got the token, same clock.
        while_used: seconds after its last use a token is still renewed; 0 for never in the background.
    """
    return while_used > 0 and now >= refresh_from and now - last_used <= while_used


def token_identity(
    endpoints: Iterable[str],
    init_data: str | None,
    tee: str,
    devices: Iterable[str],
    algorithm: KeyAlgorithm,
    *,
    measured: int = 0,
) -> str:
    """Names what a token stands for: what was released for one is not right for another.

    Args:
        endpoints: base URLs of the broker, in order.
        init_data: TOML text as measured, or None.
        tee: wire string of the primary TEE; empty when there is none.
        devices: wire strings of the devices, in any order.
        algorithm: of the key pair.
        measured: runtime measurements so far.

    Returns:
        64 hexadecimal digits; says nothing about the parts, so it may be logged.
    """
    document = "" if init_data is None else hashlib.sha256(init_data.encode()).hexdigest()
    parts = (tuple(endpoints), document, tee, sorted(devices), algorithm.value, measured)
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def wipe_when_dropped(token: KbsToken) -> None:
    """Overwrite JWT and cookies once the last holder lets go of ``token``.

    Callers hold a token while an answer for it is under way, so a renewed one lives exactly until then.
    What this cannot reach: the copies made for each request's head, which Python frees without overwriting.
    The private key is OpenSSL's, which clears it when it is freed at the same time.
    """
    weakref.finalize(token, token.jwt.wipe)
    if token.session is not None:
        weakref.finalize(token, token.session.wipe)


class TokenSource(Protocol):
    """Where a resource client gets its token: this process's session, or another agent by ttrpc."""

    async def token(self, deadline: Deadline, *, refused: KbsToken | None = None) -> KbsToken:
        """A token to present.

        Args:
            deadline: when the caller stops waiting.
            refused: the broker refused this one; it is never handed out again.
        """


class _Claims(msgspec.Struct, frozen=True):
    exp: float | None = None
    iat: float | None = None
    nbf: float | None = None


class _ExportedCookie(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of a balancer; ``seconds`` left, None: as long as the session."""

    name: str
    value: str
    origin: str
    path: str
    domain: str = ""
    secure: bool = False
    seconds: float | None = None


class _ExportedSession(msgspec.Struct, frozen=True, omit_defaults=True):
    cookie: str
    endpoint: str
    seconds: float
    others: tuple[_ExportedCookie, ...] = ()


class _Exported(msgspec.Struct, frozen=True, omit_defaults=True):
    token: str
    tee_keypair: str
    session: _ExportedSession | None = None


def held_token(jwt: Secret, key: TeeKey, clock: Clock) -> KbsToken:
    """A token that was issued just now.

    Its life, ``exp - iat`` seconds, is counted from now on the boot clock, so a wrong wall clock in the
    guest does no harm. Without ``iat`` the wall clock has to do; without ``exp`` the life is
    ``limits.TOKEN_DEFAULT_LIFE``. It is never longer than ``limits.TOKEN_MAX_LIFE``.

    Raises:
        AgentError: KBS_BAD_RESPONSE, when it is not a JWT with a JSON object as payload.
    """
    return KbsToken(jwt, key, clock.boot() + _life(_claims(jwt), clock))


def token_digest(jwt: Secret) -> bytes:
    """SHA-256 of a JWT: names a token without giving it away."""
    return hashlib.sha256(jwt.reveal()).digest()


def encode_token(token: KbsToken, clock: Clock | None = None) -> Secret:
    """GetToken's answer for type ``kbs``: JSON ``{"token", "tee_keypair"}`` (kbs_protocol.md 5.1).

    With a clock also ``session``, for another role of ours: the broker's session, its seconds left and the
    cookies that lead a balancer to it. Who does not know these reads the rest.
    """
    session = None
    if clock is not None and token.session is not None:
        ref = token.session
        cookie = ref.cookie.reveal().decode("ascii")
        left = max(0.0, ref.until - clock.boot())
        session = _ExportedSession(cookie, ref.endpoint, left, _others(ref, clock.boot()))
    pem = token.key.pem().reveal().decode("ascii")
    return Secret(msgspec.json.encode(_Exported(token.jwt.reveal().decode("ascii"), pem, session)))


def decode_token(body: bytes, clock: Clock) -> KbsToken:
    """Read GetToken's answer for type ``kbs``, from this or the Rust attestation agent.

    The other agent may have held the token for a while. If the wall clock says that less is left than
    ``exp - iat``, that is believed; a wall clock past ``exp`` is taken for wrong, since agents do not hand
    out expired tokens.

    Args:
        body: at most ``limits.KBS_MAX_TOKEN`` bytes.
        clock: both of its times are used.

    Raises:
        AgentError: KBS_BAD_RESPONSE.
    """
    try:
        exported = parse(body, _Exported, limits.KBS_MAX_TOKEN)  # T-TOKEN-23: bounded before parsing.
        jwt = Secret(exported.token.encode("ascii"))
    except ValueError:
        raise AgentError(
            ErrorCode.KBS_BAD_RESPONSE, "the attestation agent's token answer cannot be read"
        ) from None
    key = TeeKey.from_pem(exported.tee_keypair.encode())
    claims = _claims(jwt)
    life = _life(claims, clock)
    if claims.exp is not None and claims.exp > clock.wall():
        life = min(life, claims.exp - clock.wall())
    return KbsToken(jwt, key, clock.boot() + life, session=_session(exported.session, clock))


def _others(session: SessionRef, now: float) -> tuple[_ExportedCookie, ...]:
    return tuple(
        _ExportedCookie(
            one.name,
            one.value.reveal().decode("ascii"),
            one.origin,
            one.path,
            one.domain,
            one.secure,
            None if math.isinf(one.until) else one.until - now,
        )
        for one in session.jar.cookies
        if one.until > now
    )


def _session(told: _ExportedSession | None, clock: Clock) -> SessionRef | None:
    if told is None or not math.isfinite(told.seconds):
        return None
    # T-TOKEN-44: it becomes a head line, so what a broker's cookie may not hold is not believed here either.
    if not COOKIE_VALUE.fullmatch(told.cookie):
        return None
    now = clock.boot()
    until = now + min(max(0.0, told.seconds), limits.TOKEN_MAX_LIFE)
    jar = cookies.Jar(cookies.bounded(_cookie(one, now) for one in told.others if _believed(one)))
    return SessionRef(Secret(told.cookie.encode("ascii")), told.endpoint, until, jar)


def _believed(told: _ExportedCookie) -> bool:
    # T-KBS-104: the same for those beside it.
    life = told.seconds is None or math.isfinite(told.seconds)
    return life and told.name != cookies.SESSION and cookies.usable(told.name, told.value, told.path)


def _cookie(told: _ExportedCookie, now: float) -> cookies.Cookie:
    until = math.inf if told.seconds is None else now + min(told.seconds, limits.SESSION_MAX_LIFE)
    value = Secret(told.value.encode())
    return cookies.Cookie(told.name, value, told.origin, told.domain, told.path, told.secure, until)


def _claims(jwt: Secret) -> _Claims:
    try:
        if len(jwt) > limits.KBS_MAX_TOKEN:  # T-TOKEN-24: bounded before parsing.
            raise ValueError("too large")
        claims = parse(jwt_payload(jwt.reveal().decode("ascii")), _Claims, limits.KBS_MAX_TOKEN)
    except ValueError:
        # The reason could repeat a part of the token.
        raise AgentError(ErrorCode.KBS_BAD_RESPONSE, "the token is not a JWT") from None
    if not all(math.isfinite(time) for time in (claims.exp, claims.iat, claims.nbf) if time is not None):
        raise AgentError(ErrorCode.KBS_BAD_RESPONSE, "a time in the token is not a number")
    return claims


def _life(claims: _Claims, clock: Clock) -> float:
    if claims.exp is None:
        return limits.TOKEN_DEFAULT_LIFE
    start = clock.wall() if claims.iat is None else claims.iat
    # T-TOKEN-25: a token that claims to live for ever is still renewed within a day.
    return min(max(0.0, claims.exp - start), limits.TOKEN_MAX_LIFE)
