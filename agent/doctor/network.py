"""The way to the key broker, step by step: name, route, connection, TLS, and what the broker answers."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from agent.clock import Deadline
from agent.doctor.finding import Finding, Patient, Verdict, failed
from agent.errors import AgentError, ErrorCode
from agent.http import tls
from agent.http.client.dial import Dialer
from agent.http.client.exchange import HttpError, Trouble
from agent.http.client.race import race
from agent.http.client.reasons import system_reason
from agent.http.resolver import Resolver
from agent.http.url import Url
from agent.kbs import handshake
from agent.kbs.client import KbsClient
from agent.kbs.skew import ClockSkew, describe
from agent.kbs.transport import BOUNDS, proxy, trust
from agent.observe.metrics import Metrics

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Sequence

    from agent.clock import Clock
    from agent.config.model import Kbs
    from agent.http.resolver import Address

AREA: Final = "key broker"
_STEP: Final = 5.0
_SOON: Final = 14 * 86400.0
"""As the alert on it (docs/kubernetes/alerts.yaml)."""


async def broker(patient: Patient) -> AsyncIterator[Finding]:
    """All of it, for every endpoint of the attester's broker, or of the hub's where the attester has none."""
    settings = patient.config.attester.kbs
    if not settings.url:
        settings = patient.config.hub.kbs
    if not settings.url:
        yield Finding(
            AREA, "configuration", Verdict.BAD, "none is configured", "Set token_configs.kbs.url in aa.toml."
        )
        return
    for server in settings.servers():
        own = replace(settings, url=server.url, extra_roots=server.extra_roots, pins=server.pins)
        async for finding in _endpoint(own, patient.clock):
            yield finding
    async for finding in _answer(patient, settings):
        yield finding


async def _endpoint(settings: Kbs, clock: Clock) -> AsyncIterator[Finding]:
    if settings.proxy:
        yield Finding(AREA, "proxy", Verdict.GOOD, "configured: the steps below lead to it")
    try:
        url = proxy(settings) or Url.parse(settings.url)
    except (AgentError, ValueError):
        yield _bad(ErrorCode.CONFIG_INVALID, "name", "the URL is not http(s)://host[:port][/path]")
        return
    try:
        async with asyncio.timeout(_STEP):
            found = await Resolver().addresses(url.host, url.port)
    except TimeoutError:
        yield _bad(ErrorCode.KBS_DNS_FAILED, "name", f"{url.host}: no answer within {_STEP:g} s")
        return
    except OSError as error:
        yield _bad(ErrorCode.KBS_DNS_FAILED, "name", f"{url.host}: {system_reason(error)}")
        return
    addresses = [str(each.sockaddr[0]) for each in found]
    yield Finding(AREA, "name", Verdict.GOOD, f"{url.host} is {', '.join(addresses[:4])}")
    yield _route(found[0])
    async for finding in _connection(settings, url, found, clock):
        yield finding


def _route(address: Address) -> Finding:
    with socket.socket(address.family, socket.SOCK_DGRAM) as probe:  # connecting one of these sends nothing
        try:
            probe.connect(address.sockaddr)
        except OSError as error:
            return _bad(ErrorCode.KBS_UNREACHABLE, "route", f"{address.sockaddr[0]}: {error.strerror}")
        return Finding(AREA, "route", Verdict.GOOD, f"from {probe.getsockname()[0]}")


async def _connection(
    settings: Kbs, url: Url, addresses: Sequence[Address], clock: Clock
) -> AsyncIterator[Finding]:
    port = url.port
    try:
        async with asyncio.timeout(_STEP):
            (await race(addresses)).close()
    except TimeoutError:
        yield _bad(ErrorCode.KBS_UNREACHABLE, "connection", f"port {port}: no answer; a firewall drops it")
        return
    except OSError as error:
        yield _bad(ErrorCode.KBS_UNREACHABLE, "connection", f"port {port}: {system_reason(error)}")
        return
    yield Finding(AREA, "connection", Verdict.GOOD, f"port {port} answers")
    if url.secure:
        yield await _tls(settings, url, clock)
    else:
        yield Finding(
            AREA,
            "TLS",
            Verdict.WARNING,
            "http: everybody on the way reads and changes what is not encrypted to the TEE",
            "Use https, or pin the broker's key (kbs.pins).",
        )


async def _tls(settings: Kbs, url: Url, clock: Clock) -> Finding:
    dialer = Dialer(BOUNDS, Resolver())
    try:
        async with asyncio.timeout(_STEP):
            connection = await dialer.open(url, trust(settings))
    except AgentError as error:
        return failed(AREA, "TLS", error)
    except TimeoutError:
        return _bad(ErrorCode.KBS_TLS_TIMEOUT, "TLS", f"no handshake within {_STEP:g} s")
    except HttpError as error:
        plain = error.trouble is Trouble.PLAIN
        return _bad(ErrorCode.KBS_NOT_TLS if plain else ErrorCode.KBS_TLS_FAILED, "TLS", error.detail)
    try:
        return _certificate(settings, connection.session, clock.wall())
    finally:
        connection.abort()


def _certificate(settings: Kbs, session: ssl.SSLObject | None, now: float) -> Finding:
    trusted = "its key is pinned" if settings.pins else "its certificate is trusted"
    if session is None:
        raise AssertionError("https has TLS")
    try:
        ends = tls.ends(session)
    except ValueError:
        return Finding(AREA, "TLS", Verdict.GOOD, f"{session.version()}, {trusted}")
    seen = f"{session.version()}, {trusted} and ends {time.strftime('%Y-%m-%d', time.gmtime(ends))}"
    if settings.pins or ends - now > _SOON:  # a pinned key goes on
        return Finding(AREA, "TLS", Verdict.GOOD, seen)
    return Finding(
        AREA, "TLS", Verdict.WARNING, seen, "Renew the broker's certificate: no guest gets a key after that."
    )


async def _answer(patient: Patient, settings: Kbs) -> AsyncIterator[Finding]:
    skew = ClockSkew(patient.clock)
    client = KbsClient(settings, patient.clock, Metrics(), skew=skew)
    tee = patient.detection.tee or "sample"
    try:
        body, _ = await client.auth(handshake.build_request(tee), Deadline.after(patient.clock, _STEP))
        handshake.parse_challenge(body)
    except AgentError as error:
        yield failed(AREA, "challenge", error)
    else:
        yield Finding(AREA, "challenge", Verdict.GOOD, f"the broker speaks our protocol and takes {tee}")
    finally:
        await client.close()
    offset = skew.offset()
    if offset is not None:
        bad = abs(offset) >= 60
        yield Finding(
            "clock",
            "against the broker's",
            Verdict.BAD if bad else Verdict.GOOD,
            describe(offset),
            ErrorCode.CLOCK_SKEW.meaning.hint if bad else "",
        )


def _bad(code: ErrorCode, name: str, seen: str) -> Finding:
    return failed(AREA, name, AgentError(code, seen))
