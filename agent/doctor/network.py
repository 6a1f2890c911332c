"""The way to the key broker, step by step: name, route, connection, TLS, and what the broker answers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from agent.clock import Deadline
from agent.doctor.finding import Finding, Patient, Verdict, failed
from agent.errors import AgentError, ErrorCode
from agent.kbs import handshake, tls
from agent.kbs.client import KbsClient
from agent.kbs.skew import ClockSkew, describe
from agent.observe.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent.clock import Clock
    from agent.config.model import Kbs

AREA: Final = "key broker"
_STEP: Final = 5.0
_SOON: Final = 14 * 86400.0
"""As the alert on it (docs/kubernetes/alerts.yaml)."""
_PORTS: Final = {"http": 80, "https": 443}


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
        async for finding in _endpoint(settings, server.url, patient.clock):
            yield finding
    async for finding in _answer(patient, settings):
        yield finding


async def _endpoint(settings: Kbs, url: str, clock: Clock) -> AsyncIterator[Finding]:
    if settings.proxy:
        yield Finding(AREA, "proxy", Verdict.GOOD, "configured: the steps below lead to it")
    parts = urlsplit(settings.proxy or url)
    host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    try:
        async with asyncio.timeout(_STEP):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        yield _bad(ErrorCode.KBS_DNS_FAILED, "name", f"{host}: no answer within {_STEP:g} s")
        return
    except OSError as error:
        yield _bad(ErrorCode.KBS_DNS_FAILED, "name", f"{host}: {error.strerror}")
        return
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    yield Finding(AREA, "name", Verdict.GOOD, f"{host} is {', '.join(addresses[:4])}")
    yield _route(found[0][0], (addresses[0], port))
    async for finding in _connection(settings, parts.scheme, (host, port), clock):
        yield finding


def _route(family: int, address: tuple[str, int]) -> Finding:
    with socket.socket(family, socket.SOCK_DGRAM) as probe:  # connecting a datagram socket sends nothing
        try:
            probe.connect(address)
        except OSError as error:
            return _bad(ErrorCode.KBS_UNREACHABLE, "route", f"{address[0]}: {error.strerror}")
        return Finding(AREA, "route", Verdict.GOOD, f"from {probe.getsockname()[0]}")


async def _connection(
    settings: Kbs, scheme: str, address: tuple[str, int], clock: Clock
) -> AsyncIterator[Finding]:
    host, port = address
    try:
        async with asyncio.timeout(_STEP):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        yield _bad(ErrorCode.KBS_UNREACHABLE, "connection", f"port {port}: no answer; a firewall drops it")
        return
    except OSError as error:
        yield _bad(
            ErrorCode.KBS_UNREACHABLE, "connection", f"port {port}: {os.strerror(error.errno or errno.EIO)}"
        )
        return
    yield Finding(AREA, "connection", Verdict.GOOD, f"port {port} answers")
    try:
        if scheme == "https":
            yield await _tls(settings, writer, host, clock)
        else:
            yield Finding(
                AREA,
                "TLS",
                Verdict.WARNING,
                "http: everybody on the way reads and changes what is not encrypted to the TEE",
                "Use https, or pin the broker's key (kbs.pins).",
            )
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                await writer.wait_closed()


async def _tls(settings: Kbs, writer: asyncio.StreamWriter, host: str, clock: Clock) -> Finding:
    try:
        context = await asyncio.to_thread(tls.context, settings)
        async with asyncio.timeout(_STEP):
            await writer.start_tls(context or ssl.create_default_context(), server_hostname=host)
    except AgentError as error:
        return failed(AREA, "TLS", error)
    except TimeoutError:
        return _bad(ErrorCode.KBS_TLS_TIMEOUT, "TLS", f"no handshake within {_STEP:g} s")
    except ssl.SSLError as error:
        told = getattr(error, "verify_message", "") or error.reason or type(error).__name__
        return _bad(ErrorCode.KBS_TLS_FAILED, "TLS", str(told))
    except OSError as error:
        return _bad(ErrorCode.KBS_TLS_FAILED, "TLS", f"the connection broke off: {error.strerror}")
    return _certificate(settings, writer.get_extra_info("ssl_object"), clock.wall())


def _certificate(settings: Kbs, session: ssl.SSLObject, now: float) -> Finding:
    trusted = "its key is pinned" if settings.pins else "its certificate is trusted"
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
