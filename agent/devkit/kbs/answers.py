"""One request and its answer, free of any HTTP library, and the broker's problem bodies."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from msgspec.structs import replace

from agent.secret import without

if TYPE_CHECKING:
    from collections.abc import Mapping

Endpoint = Literal["auth", "attest", "resource", "admin"]
ENDPOINTS: Final[tuple[Endpoint, ...]] = ("auth", "attest", "resource", "admin")

PROBLEM_BASE: Final = "https://github.com/confidential-containers/kbs/errors/"
NOT_FOUND: Final = frozenset({"PluginNotFound", "InvalidRequestPath"})
JSON: Final = "application/json"
RAW: Final = "text/xml"


class Call(msgspec.Struct, frozen=True):
    """One request below ``/kbs/v0/``.

    Attributes:
        method: GET, POST, PUT or DELETE.
        segments: the decoded path after ``/kbs/v0/``, split at ``/``.
        query: decoded; of repeated names the last value.
        cookie: value of ``kbs-session-id``, or empty.
        bearer: the bearer token, or empty.
        body: as sent.
        origin: the request carries an Origin header, so a web page sent it.
    """

    method: str
    segments: tuple[str, ...]
    query: Mapping[str, str] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    cookie: str = ""
    bearer: str = ""
    body: bytes = b""
    origin: bool = False

    def __repr__(self) -> str:
        return without(self, "cookie", "bearer", "body")

    @property
    def plugin(self) -> str:
        """First segment: a built-in function or a plugin's name."""
        return self.segments[0]

    @property
    def path(self) -> str:
        """The rest."""
        return "/".join(self.segments[1:])

    @property
    def endpoint(self) -> Endpoint:
        """What counters and faults call this request."""
        if self.method == "POST" and self.plugin == "auth":
            return "auth"
        if self.method == "POST" and self.plugin == "attest":
            return "attest"
        return "resource" if self.method == "GET" and self.plugin != "resource-policy" else "admin"


class Answer(msgspec.Struct, frozen=True):
    """One response.

    Attributes:
        status: HTTP status.
        body: as sent.
        content_type: None for no such header at all, as problem bodies have it.
        cookie: a whole Set-Cookie value, or empty.
        location: a Location value, or empty.
    """

    status: int = 200
    body: bytes = b""
    content_type: str | None = None
    cookie: str = ""
    location: str = ""

    def __repr__(self) -> str:
        return without(self, "body", "cookie")

    def without_cookie(self) -> Answer:
        """The same, no Set-Cookie."""
        return replace(self, cookie="")


class _Body(msgspec.Struct, frozen=True):
    type: str
    detail: str


class ProblemError(Exception):
    """A refusal, as the client sees it (kbs_protocol.md 1.8 and 3.4).

    Attributes:
        kind: last part of the problem ``type``.
        detail: text on the wire. Says no more than Trustee would.
        reason: for this server's own log; never sent.
        status: 401 for nearly everything.
    """

    def __init__(self, kind: str, detail: str, reason: str = "", *, status: int | None = None) -> None:
        super().__init__(kind, detail, reason)
        self.kind = kind
        self.detail = detail
        self.reason = reason
        self.status = status or (404 if kind in NOT_FOUND else 401)

    def answer(self) -> Answer:
        """The error body, without a content type."""
        return Answer(self.status, msgspec.json.encode(_Body(PROBLEM_BASE + self.kind, self.detail)))


def auth_problem(cause: str, reason: str = "") -> ProblemError:
    """Any failure at /auth: names the outermost cause."""
    return ProblemError("AttestationError", f"Attestation error: RCAR handshake Auth failed: {cause}", reason)


def attest_problem(reason: str) -> ProblemError:
    """Any failure at /attest: the cause stays in the server's log."""
    return ProblemError("AttestationError", "Attestation error: RCAR handshake Attest failed", reason)


def token_missing() -> ProblemError:
    """No live session and no bearer token."""
    return ProblemError("TokenNotFound", "Attestation Token not found")


def token_refused(reason: str) -> ProblemError:
    """The token cannot be verified, or carries no usable key."""
    return ProblemError("TokenVerifierError", "Token Verifier error", reason)


def policy_denied() -> ProblemError:
    """The resource policy said no."""
    return ProblemError("PolicyDeny", "Access denied by policy")


def plugin_failed(reason: str) -> ProblemError:
    """A missing resource, an illegal path and a broken backend all look like this."""
    return ProblemError("PluginInternalError", "Plugin internal error", reason)


def plugin_unknown(name: str) -> ProblemError:
    """No plugin of that name."""
    return ProblemError("PluginNotFound", f"Plugin {name} not found")
