"""Switches that make the broker misbehave, one endpoint at a time."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import force_setattr

from agent.devkit.kbs.answers import ENDPOINTS, JSON, Answer, Endpoint, ProblemError, auth_problem

if TYPE_CHECKING:
    import asyncio


class Kind(enum.StrEnum):
    """What goes wrong, and which members of :class:`Fault` it reads."""

    DELAY = "delay"
    """Answer after ``seconds``."""
    HOLD = "hold"
    """Answer when ``gate`` is set: a delay without a clock."""
    BLACK_HOLE = "black_hole"
    """Take the request and never answer."""
    RESET = "reset"
    """Send ``size`` bytes of the true body (0: not even a head), then reset the TCP connection."""
    RESET_IN_HEAD = "reset_in_head"
    """Send the first half of the true head, then reset the TCP connection."""
    WRONG_LENGTH = "wrong_length"
    """A Content-Length that is ``size`` off, then the connection closes. Negative: the body goes on behind
    its announced end. Positive: it ends early."""
    GARBAGE = "garbage"
    """Status 200, type JSON, and ``body``, which is none."""
    STATUS = "status"
    """``status`` with ``body`` and ``content_type``."""
    PROBLEM = "problem"
    """A problem body with ``problem`` and ``detail``; ``status`` if not 0, else what Trustee sends."""
    EXPIRED_TOKEN = "expired_token"  # noqa: S105 - a name
    """/attest: a token that expired ``seconds`` (0: two minutes) ago."""
    HUGE_TOKEN = "huge_token"  # noqa: S105 - a name
    """/attest: a claim of ``size`` bytes."""
    DRIP = "drip"
    """The true answer, ``size`` (0: 1) bytes every ``seconds``."""
    OVERSIZED = "oversized"
    """Status 200, type JSON, chunked, one string of ``size`` (0: 128 MiB) bytes."""
    REDIRECT = "redirect"
    """``status`` (0: 307) to ``to``."""
    DROP_COOKIE = "drop_cookie"
    """The true answer without Set-Cookie."""
    VERSION_MISMATCH = "version_mismatch"
    """/auth: as a server of protocol 0.5.0."""
    REPLAYED_NONCE = "replayed_nonce"
    """/auth: a new session, but the nonce of another one."""
    WRONG_KEY = "wrong_key"
    """/resource: encrypted to another key of the same kind than the guest's."""
    WRONG_CURVE = "wrong_curve"
    """/resource: encrypted to a key on another curve than the guest's."""
    FORGET_SESSIONS = "forget_sessions"
    """Drop every session first, then answer."""
    ROTATE_SIGNER = "rotate_signer"
    """Replace the token signer first, then answer: tokens issued before are refused."""


class Fault(msgspec.Struct, frozen=True):
    """One switch.

    Attributes:
        kind: what goes wrong: a :class:`Kind` or its value; always a Kind afterwards.
        times: requests it hits; None for all until :meth:`Faults.clear`.
        skip: requests it lets pass first.
        seconds: see :class:`Kind`, as all below.
        size: bytes.
        status: HTTP status.
        body: response body.
        content_type: of ``body``; None for no such header.
        problem: last part of a problem type.
        detail: of the problem.
        to: Location.
        gate: event to wait for.
        arrived: any kind: set when a request is hit, for tests that act while one is under way.
    """

    kind: Kind | str
    times: int | None = None
    skip: int = 0
    seconds: float = 0.0
    size: int = 0
    status: int = 0
    body: bytes = b"\xff{not json"
    content_type: str | None = JSON
    problem: str = "PluginInternalError"
    detail: str = "injected"
    to: str = ""
    gate: asyncio.Event | None = None
    arrived: asyncio.Event | None = None

    def __post_init__(self) -> None:
        force_setattr(self, "kind", Kind(self.kind))

    def instead(self) -> Answer | None:
        """The answer that replaces the true one, or None for kinds that work otherwise."""
        match self.kind:
            case Kind.GARBAGE:
                return Answer(200, self.body, JSON)
            case Kind.STATUS:
                return Answer(self.status or 500, self.body, self.content_type)
            case Kind.PROBLEM:
                return ProblemError(self.problem, self.detail, status=self.status or None).answer()
            case Kind.REDIRECT:
                return Answer(self.status or 307, location=self.to)
            case Kind.VERSION_MISMATCH:
                return auth_problem(mismatch("0.5.0", "0.4.0")).answer()
            case _:
                return None


def mismatch(expected: str, requested: str) -> str:
    """The version text (kbs_protocol.md 1.8); clients look for its first half."""
    return f"KBS Client Protocol Version Mismatch: expect ={expected} while the request is {requested}"


class _Armed(msgspec.Struct):
    fault: Fault
    skip: int
    left: int | None


_DEFAULT_LAG: Final = 120.0


def expired_life(fault: Fault) -> float:
    """Life (negative seconds) of a token that died ``fault.seconds`` ago."""
    return -(fault.seconds or _DEFAULT_LAG)


class Faults:
    """Faults by endpoint. Of several on one endpoint the oldest that still hits is used."""

    def __init__(self) -> None:
        self._armed: dict[str, list[_Armed]] = {endpoint: [] for endpoint in ENDPOINTS}

    def on(self, endpoint: Endpoint | str, fault: Fault) -> None:
        """Switch a fault on.

        Args:
            endpoint: ``auth``, ``attest``, ``resource`` (a guest's GET, any plugin) or ``admin``.
            fault: what happens.

        Raises:
            KeyError: no such endpoint.
        """
        self._armed[endpoint].append(_Armed(fault, fault.skip, fault.times))

    def clear(self, endpoint: Endpoint | str | None = None) -> None:
        """Switch all off, or those of one endpoint."""
        for name in ENDPOINTS if endpoint is None else (endpoint,):
            self._armed[name].clear()

    def take(self, endpoint: Endpoint) -> Fault | None:
        """The fault that hits this request; uses up one of its times."""
        for armed in self._armed[endpoint]:
            if armed.left == 0:
                continue
            if armed.skip > 0:
                armed.skip -= 1
                continue
            if armed.left is not None:
                armed.left -= 1
            return armed.fault
        return None
