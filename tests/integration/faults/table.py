"""The fault table: what goes wrong, where, and the one code that callers of every API get.

docs/faults.md shows the same table (``python -m tests.integration.faults.table`` rewrites it), and
tests/integration/faults/test_matrix.py plays every row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from agent.config import limits
from agent.devkit import pki
from agent.devkit.kbs import Fault, Kind
from agent.errors import ErrorCode
from tests.integration.faults.stage import TOKEN_APIS, Stage

DOCUMENT = Path(__file__).parents[3] / "docs" / "faults.md"
PROXY_PAGE = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
LONG = 3600.0

Switch: TypeAlias = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Row:
    """One fault at one place.

    Attributes:
        fault: what goes wrong.
        at: where: an endpoint (``auth``, ``attest``, ``resource``), or a part of the way there.
        code: what every caller gets; None when the fault does no harm.
        switch: makes it happen.
        says: the operator's log line holds this (regular expression, case does not count).
        secure: with TLS.
        pinned: with the broker's key pinned.
        named: with a host name in the broker's URL.
        spares_tokens: who asks for a token gets one.
    """

    fault: str
    at: str
    code: ErrorCode | None
    switch: Switch
    says: str = ""
    secure: bool = False
    pinned: bool = False
    named: bool = False
    spares_tokens: bool = False

    @property
    def id(self) -> str:
        """Name of the test."""
        return f"{self.fault}, {self.at}".replace(" ", "_")

    def expected(self, api: str) -> ErrorCode | None:
        """What a caller of this API gets."""
        # A sealed secret's signing key is asked for first, and whoever has to act is another one.
        if self.code is ErrorCode.RESOURCE_NOT_FOUND and api == "UnsealSecret":
            return ErrorCode.SEALED_KEY_UNKNOWN
        return None if self.spares_tokens and api in TOKEN_APIS else self.code


def _endpoint(at: str, fault: Fault) -> Switch:
    async def switch(stage: Stage) -> None:
        stage.kbs.faults.on(at, fault)

    return switch


def _at(
    fault: str, make: Callable[[str], Fault], codes: dict[str, ErrorCode | None], says: str = ""
) -> tuple[Row, ...]:
    return tuple(
        Row(fault, at, code, _endpoint(at, make(at)), says, spares_tokens=at == "resource")
        for at, code in codes.items()
    )


def _everywhere(auth: ErrorCode, attest: ErrorCode, resource: ErrorCode) -> dict[str, ErrorCode | None]:
    return {"auth": auth, "attest": attest, "resource": resource}


_C = ErrorCode
_LATE = _everywhere(_C.KBS_TIMEOUT, _C.APPRAISAL_TIMEOUT, _C.KBS_TIMEOUT)
_LOST = _everywhere(_C.KBS_UNREACHABLE, _C.KBS_UNREACHABLE, _C.KBS_UNREACHABLE)
_NONSENSE = _everywhere(_C.KBS_BAD_RESPONSE, _C.KBS_BAD_RESPONSE, _C.JWE_INVALID)
_TOO_LARGE = {
    "auth": limits.KBS_MAX_CHALLENGE,
    "attest": limits.KBS_MAX_TOKEN,
    "resource": limits.KBS_MAX_RESOURCE,
}


def _oversized(at: str) -> Fault:
    return Fault(Kind.OVERSIZED, size=_TOO_LARGE[at] + 64 * limits.KIB)


def _problem(name: str, detail: str = "") -> Callable[[str], Fault]:
    return lambda _: Fault(Kind.PROBLEM, problem=name, detail=detail)


# --- faults of the way to the broker ---------------------------------------------------------------
async def _down(stage: Stage) -> None:
    await stage.remove_broker()


async def _swallowed(stage: Stage) -> None:
    await stage.swallow_connections()


async def _silent(stage: Stage) -> None:
    await stage.talk_instead(b"")


async def _banner(stage: Stage) -> None:
    await stage.talk_instead(b"SSH-2.0-OpenSSH_9.6\r\n")


async def _expired(stage: Stage) -> None:
    assert stage.authority is not None
    await stage.replace_broker(stage.authority.issue(expired=True).context())


async def _wrong_host(stage: Stage) -> None:
    assert stage.authority is not None
    await stage.replace_broker(stage.authority.issue("other.example").context())


async def _wrong_authority(stage: Stage) -> None:
    await stage.replace_broker(pki.Authority("somebody else").issue().context())


async def _wrong_pin(stage: Stage) -> None:
    assert stage.authority is not None
    await stage.replace_broker(stage.authority.issue().context())


async def _no_tls(stage: Stage) -> None:
    await stage.replace_broker(None)


async def _no_name(stage: Stage) -> None:
    stage.known_names.discard(stage.host)


async def _evidence_hangs(stage: Stage) -> None:
    stage.evidence.hangs = True


async def _evidence_fails(stage: Stage) -> None:
    stage.evidence.fails = True


ROWS: tuple[Row, ...] = (
    # --- the way ---
    Row("name does not resolve", "name", _C.KBS_DNS_FAILED, _no_name, says=r"broker-\w+\.invalid",
        named=True),
    Row("broker down", "connection", _C.KBS_UNREACHABLE, _down, says="refused"),
    Row("black hole", "connection", _C.KBS_UNREACHABLE, _swallowed, says="connect"),
    Row("black hole", "TLS", _C.KBS_TLS_TIMEOUT, _silent, secure=True),
    Row("certificate expired", "TLS", _C.KBS_TLS_FAILED, _expired, says="expired", secure=True),
    Row("certificate of another host", "TLS", _C.KBS_TLS_FAILED, _wrong_host, says="mismatch", secure=True),
    Row("certificate of another authority", "TLS", _C.KBS_TLS_FAILED, _wrong_authority,
        says="issuer|self.signed", secure=True),
    Row("key that is not pinned", "TLS", _C.KBS_TLS_FAILED, _wrong_pin, says="not pinned", secure=True,
        pinned=True),
    Row("no TLS on the port", "TLS", _C.KBS_NOT_TLS, _no_tls, says="does not speak TLS", secure=True),
    Row("no HTTP on the port", "connection", _C.KBS_BAD_RESPONSE, _banner, says="not HTTP"),
    # --- answers that do not come, or break off ---
    *_at("black hole", lambda _: Fault(Kind.BLACK_HOLE), _LATE),
    *_at("answer held back", lambda _: Fault(Kind.HOLD, gate=asyncio.Event()), _LATE),
    *_at("answer later than the deadline", lambda _: Fault(Kind.DELAY, seconds=LONG), _LATE),
    *_at("slow drip", lambda _: Fault(Kind.DRIP, size=1, seconds=0.5), _LATE),
    *_at("short delay", lambda _: Fault(Kind.DELAY, seconds=0.05),
         {"auth": None, "attest": None, "resource": None}),
    *_at("reset before the head", lambda _: Fault(Kind.RESET), _LOST),
    *_at("reset within the head", lambda _: Fault(Kind.RESET_IN_HEAD), _LOST),
    *_at("reset within the body", lambda _: Fault(Kind.RESET, size=10), _LOST),
    *_at("Content-Length too long", lambda _: Fault(Kind.WRONG_LENGTH, size=7), _LOST, says="broke off"),
    # --- answers that make no sense ---
    *_at("Content-Length too short", lambda _: Fault(Kind.WRONG_LENGTH, size=-7),
         _everywhere(_C.KBS_BAD_RESPONSE, _C.KBS_BAD_RESPONSE, _C.KBS_BAD_RESPONSE), says="not HTTP"),
    *_at("garbage JSON", lambda _: Fault(Kind.GARBAGE), _NONSENSE),
    *_at("oversized body", _oversized,
         _everywhere(_C.KBS_RESPONSE_TOO_LARGE, _C.KBS_RESPONSE_TOO_LARGE, _C.KBS_RESPONSE_TOO_LARGE)),
    *_at("HTML page of a proxy, 502",
         lambda _: Fault(Kind.STATUS, status=502, body=PROXY_PAGE, content_type="text/html"),
         _everywhere(_C.KBS_BUSY, _C.KBS_BUSY, _C.KBS_BUSY), says="502"),
    *_at("HTML page of a portal, 200",
         lambda _: Fault(Kind.STATUS, status=200, body=PROXY_PAGE, content_type="text/html"),
         _everywhere(_C.KBS_BAD_RESPONSE, _C.KBS_BAD_RESPONSE, _C.KBS_BAD_RESPONSE)),
    *_at("redirect to another host", lambda _: Fault(Kind.REDIRECT, to="http://other.example/"),
         _everywhere(_C.KBS_REDIRECT_REFUSED, _C.KBS_REDIRECT_REFUSED, _C.KBS_REDIRECT_REFUSED), says="307"),
    # --- the handshake ---
    *_at("another protocol version", lambda _: Fault(Kind.VERSION_MISMATCH), {"auth": _C.PROTOCOL_MISMATCH}),
    *_at("no session cookie", lambda _: Fault(Kind.DROP_COOKIE), {"auth": _C.KBS_BAD_RESPONSE},
         says="cookie"),
    *_at("replayed nonce", lambda _: Fault(Kind.REPLAYED_NONCE), {"auth": _C.ATTESTATION_REJECTED}),
    *_at("session gone before attest", lambda _: Fault(Kind.FORGET_SESSIONS),
         {"attest": _C.ATTESTATION_REJECTED}),
    *_at("evidence refused", _problem("AttestationError"), {"attest": _C.ATTESTATION_REJECTED}),
    *_at("measurement refused by policy", _problem("PolicyDeny"), {"attest": _C.MEASUREMENT_REJECTED}),
    Row("token that has expired", "attest", _C.TOKEN_REJECTED,
        _endpoint("attest", Fault(Kind.EXPIRED_TOKEN)), spares_tokens=True),
    Row("token of 200 KiB", "attest", None,
        _endpoint("attest", Fault(Kind.HUGE_TOKEN, size=200 * limits.KIB))),
    Row("evidence hangs", "TEE", _C.EVIDENCE_TIMEOUT, _evidence_hangs),
    Row("evidence fails", "TEE", _C.EVIDENCE_FAILED, _evidence_fails, says="sample"),
    # --- the release ---
    *_at("encrypted to another key", lambda _: Fault(Kind.WRONG_KEY), {"resource": _C.JWE_INVALID},
         says="does not decrypt"),
    *_at("encrypted on another curve", lambda _: Fault(Kind.WRONG_CURVE), {"resource": _C.JWE_INVALID},
         says="curve"),
    *_at("token signer replaced every time", lambda _: Fault(Kind.ROTATE_SIGNER),
         {"resource": _C.TOKEN_REJECTED}),
    *_at("denied by policy", _problem("PolicyDeny"), {"resource": _C.RESOURCE_DENIED}),
    *_at("missing", _problem("PluginInternalError"), {"resource": _C.RESOURCE_NOT_FOUND}),
    *_at("plugin missing", _problem("PluginNotFound"), {"resource": _C.PLUGIN_NOT_FOUND}),
    *_at("policy does not run", _problem("PolicyEngineError"), {"resource": _C.KBS_POLICY_BROKEN}),
    *_at("for administrators only", _problem("AdminAuthAccess"), {"resource": _C.KBS_ADMIN_REQUIRED}),
    *_at("cannot encrypt to the guest's key", _problem("JweError"), {"resource": _C.TEE_KEY_REFUSED}),
)  # fmt: skip

GUEST = (
    (
        "no file descriptors left",
        "guest",
        "GUEST_EXHAUSTED; new connections wait; well again when some close",
    ),
    ("disk full: log", "guest", "no error; lost lines are counted"),
    ("disk full: folder of a socket", "guest", "CONFIG_INVALID at start, exit status 1"),
)
"""Played by test_host.py, with programs of their own."""

SHARED: dict[ErrorCode, str] = {
    _C.KBS_UNREACHABLE: "No whole answer came over the network. Where it broke is in the log; what to look "
    "at (address, network policy, broker) is the same.",
    _C.KBS_TIMEOUT: "The broker took the request and was too slow; whether it was silent or slow to send "
    "makes no difference to anybody.",
    _C.APPRAISAL_TIMEOUT: "As KBS_TIMEOUT, while the broker judged the evidence.",
    _C.KBS_TLS_FAILED: "The broker's identity cannot be trusted. The log has OpenSSL's reason, or the pin.",
    _C.KBS_BAD_RESPONSE: "What answered does not behave like a broker. The log says in what way.",
    _C.KBS_BUSY: "One fault at several endpoints.",
    _C.KBS_RESPONSE_TOO_LARGE: "One fault at several endpoints.",
    _C.KBS_REDIRECT_REFUSED: "One fault at several endpoints.",
    _C.JWE_INVALID: "A resource that this guest cannot open. The log tells a wrong key from a broken text.",
    _C.ATTESTATION_REJECTED: "The broker answers these alike on purpose (kbs_protocol.md 1.8); only its own "
    "log tells them apart.",
    _C.TOKEN_REJECTED: "The broker does not say why it refuses a token; a fresh one was tried.",
}
"""Why several faults have one code: they mean the same to an operator, or the broker does not tell."""


PREAMBLE = """\
# Faults and their codes

Checked by `tests/integration/faults`: every row is played against a running agent through every API:
REST resource and token; GetResource, UnsealSecret, UnWrapKey and GetToken over ttrpc. The answer
comes within the caller's deadline, holds no secret, leaves no memory, task or descriptor behind, and
the next good request works. What to do about a code: [errors.md](errors.md).

A fault that may pass is tried again for `kbs.retry_for` (10 s), at most until the caller's
deadline: callers see it only if it lasts. A broker that has answered since the agent started and cannot
be reached now is tried for two fifths of that (4 s).
When a request has waited that long in vain, those that begin in the next 10 s get one try each and the
reason at once; where the broker keeps silent, that try ends after 1 s, then 0.5 and 0.4. So a container's
sealed values, which kata-agent opens one after another, cost one patience together:
[operations.md](operations.md#when-the-broker-is-away) has the times. Each of these tries is a real one: a
broker that is back answers the next value (`tests/integration/test_outage.py`).
A token needs no resource: faults at *resource* leave GetToken alone. A token that the broker refuses,
such as one that has expired, GetToken hands out as the broker issued it. UnsealSecret asks for the
signing key first: where nothing is there, that is SEALED_KEY_UNKNOWN.
"""


def render() -> str:
    """docs/faults.md."""
    lines = [*PREAMBLE.splitlines(), "", "| fault | where | code |", "|---|---|---|"]
    grouped: dict[tuple[str, str], list[str]] = {}
    for row in ROWS:
        grouped.setdefault((row.fault, row.code.name if row.code else "none: it works"), []).append(row.at)
    lines += [f"| {fault} | {', '.join(where)} | {code} |" for (fault, code), where in grouped.items()]
    lines += [f"| {fault} | {where} | {what} |" for fault, where, what in GUEST]
    lines += ["", "## Codes that several faults share", "", "| code | why |", "|---|---|"]
    lines += [f"| {code.name} | {why} |" for code, why in SHARED.items()]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    DOCUMENT.write_text(render())
