"""What single values cannot show: settings that contradict each other, or that weaken the guest."""

from __future__ import annotations

import ipaddress
import re
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from agent.config import limits, urls
from agent.config.findings import shown
from agent.config.keys import KERNEL_TIMEOUT, TRUST
from agent.config.model import Config, Source
from agent.config.narrow import UNMEASURED, rule
from agent.config.sources import CC_KBC, KBC_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config.findings import Report
    from agent.config.model import Kbs, KbsServer
    from agent.config.settings import Settings

_API_PATH: Final = re.compile(r"/kbs/v[0-9]")


def judge(config: Config, settings: Settings, kernel: Mapping[str, str], report: Report) -> None:
    """Add findings about the configuration as a whole."""
    _origins(config, settings, report)
    _sample(config, settings, report)
    _sealed(config, settings, report)
    for role, kbs in (("attester.kbs", config.attester.kbs), ("hub.kbs", config.hub.kbs)):
        _broker(role, kbs, settings, report)
    _no_broker(config, settings, report)
    _kbc(config, settings, report)
    _two_brokers(config, settings, report)
    _times(config, settings, kernel, report)
    _gateway(config, settings, report)


def _origins(config: Config, settings: Settings, report: Report) -> None:
    if not config.strict_origin:
        return
    # T-CONF-11: trust settings come from measured input only (SR-11). Silence stands for the default.
    default = Config()
    for name in sorted(TRUST & settings.given.keys()):
        given = settings.given[name]
        if given.origin.source not in UNMEASURED or given.within is not None:
            continue
        if not rule(name).fits(attrgetter(name)(default), given.value):
            report.refuse(
                given.origin.source.value,
                given.key if given.origin.source is Source.UNBOUND else given.origin.where,
                f"sets {name}, and security.strict_origin refuses trust settings from there",
                "put it into aa.toml, cdh.toml or agent.toml, which are measured",
            )


def makes_samples() -> bool:
    """Whether the development kit is here, which makes sample evidence; guest images leave it out."""
    from importlib.util import find_spec  # noqa: PLC0415  # for guests that ask for samples only

    try:
        return find_spec("agent.devkit.sample") is not None
    except ModuleNotFoundError:
        return False


def _sample(config: Config, settings: Settings, report: Report) -> None:
    if config.attester.allow_sample and not makes_samples():
        report.warn(
            *settings.where("attester.allow_sample"),
            "has no effect: the development kit is not in this image, so there is no sample evidence",
            "remove it, and start the guest with a TEE",
        )
    elif config.attester.allow_sample:
        report.warn(
            *settings.where("attester.allow_sample"),
            "without a TEE this guest makes evidence that proves nothing",
            "never in production",
        )
    elif config.attester.sample_device:
        report.refuse(
            *settings.where("attester.sample_device"),
            "needs attester.allow_sample = true",
            "set both on a laptop, and neither in production",
        )


def _sealed(config: Config, settings: Settings, report: Report) -> None:
    if config.hub.sealed.skip_verification:
        report.warn(
            *settings.where("hub.sealed.skip_verification"),
            "sealed secrets are accepted from anybody, signed or not",
            "remove it, and sign with 'coco-agent seal'",
        )
    if any(kid in {"*", "/"} for kid in config.hub.sealed.trusted_kids):
        report.warn(*settings.where("hub.sealed.trusted_kids"), "has an entry that matches every key")


def _broker(role: str, kbs: Kbs, settings: Settings, report: Report) -> None:
    several = any(server.url == kbs.url for server in kbs.endpoints)
    where = settings.where(f"{role}.endpoints" if several else f"{role}.url")
    for server in kbs.servers():
        _server(where, server, kbs, report)
    if kbs.endpoints and not several and kbs.url:
        report.warn(
            *settings.where(f"{role}.url"),
            "is none of kbs.endpoints, so they are not used for it",
            "add it to kbs.endpoints, if it is the same broker",
        )
    if kbs.pins and kbs.extra_roots:
        report.warn(
            *settings.where(f"{role}.extra_roots"), "has no effect: kbs.pins are given, and they decide alone"
        )


def _server(where: tuple[str, str], server: KbsServer, kbs: Kbs, report: Report) -> None:
    plain = urls.is_plain_http(server.url)
    if plain and kbs.require_tls:
        report.error(*where, "is not https, and kbs.require_tls refuses it", "use an https:// URL")
    elif plain and server.pins:
        report.error(*where, "is not https, so kbs.pins cannot protect it", "use an https:// URL")
    elif plain and not urls.is_loopback(server.url):
        report.warn(
            *where,
            "is plain http: the host can read and change resource names, cookies and tokens",
            "use https, with the broker's certificate or kbs.pins",
        )
    if _API_PATH.search(server.url):
        report.warn(*where, "ends in an API path, which the agent adds by itself", "end it after the port")


def _no_broker(config: Config, settings: Settings, report: Report) -> None:
    """A URL that was given and is empty; upstream finds out at the first use."""
    if "attester.kbs.url" in settings.given and not config.attester.kbs.url:
        report.error(
            *settings.where("attester.kbs.url"), "is empty, so nothing can be attested", "name a broker"
        )


def _kbc(config: Config, settings: Settings, report: Report) -> None:
    where = settings.where("hub.kbc")
    if config.hub.kbc not in KBC_NAMES:
        report.error(
            *where,
            f"{shown(config.hub.kbc)!r} does not exist, so every resource will fail",
            f"one of: {', '.join(KBC_NAMES)}",
        )
    elif (
        config.hub.kbc == CC_KBC
        and not config.hub.kbs.url
        and not report.blames(*settings.where("hub.kbs.url"))
    ):
        report.error(*where, "is cc_kbc, and no broker URL is given", "set kbc.url in cdh.toml")


def _two_brokers(config: Config, settings: Settings, report: Report) -> None:
    attester, hub = config.attester.kbs, config.hub.kbs
    if not attester.url or not hub.url:
        return
    if attester.url != hub.url:
        report.warn(
            *settings.where("hub.kbs.url"),
            "is another broker than the attester's, which must accept the first one's tokens",
            "compare kbc.url with token_configs.kbs.url",
        )
    elif bool(attester.extra_roots) != bool(hub.extra_roots) and not hub.pins:
        has, lacks = (
            ("token_configs.kbs.cert", "kbc.kbs_cert")
            if attester.extra_roots
            else ("kbc.kbs_cert", "token_configs.kbs.cert")
        )
        role = "hub" if attester.extra_roots else "attester"
        report.warn(
            *settings.where(f"{role}.kbs.url"),
            f"is the same broker for both roles, and only {has} has certificates",
            f"set {lacks} too, or kbs.cert in agent.toml for both",
        )


def _times(config: Config, settings: Settings, kernel: Mapping[str, str], report: Report) -> None:
    """An outer deadline below an inner one: the caller is gone before the reason is known (row 5)."""
    kbs, deadline = config.hub.kbs, config.gateway.deadline
    request = settings.where("hub.kbs.request_timeout")
    if kbs.connect_timeout > kbs.request_timeout:
        report.warn(
            *settings.where("hub.kbs.connect_timeout"),
            f"is longer than kbs.request_timeout ({kbs.request_timeout:g} s)",
        )
    if kbs.request_timeout >= deadline:
        report.warn(
            *(request if request[0] else settings.where("gateway.deadline")),
            f"one exchange may take {kbs.request_timeout:g} s, gateway.deadline ends after {deadline:g} s",
            "keep kbs.request_timeout below gateway.deadline",
        )
    if kbs.request_timeout >= limits.RPC_DEADLINE:
        report.warn(*request, f"kata-agent and image-rs give up after {limits.RPC_DEADLINE:g} s by default")
    if deadline < limits.ATTEST_DEADLINE:
        report.warn(
            *settings.where("gateway.deadline"),
            f"is shorter than an attestation may take ({limits.ATTEST_DEADLINE:g} s)",
        )
    outer = kernel.get(KERNEL_TIMEOUT, "")
    if outer.isascii() and outer.isdigit() and len(outer) < 10 and int(outer) <= kbs.request_timeout:
        report.warn(
            Source.KERNEL.value,
            KERNEL_TIMEOUT,
            f"kata-agent gives up after {outer} s, before one exchange ends ({kbs.request_timeout:g} s)",
            "raise it, or lower kbs.request_timeout",
        )


def _gateway(config: Config, settings: Settings, report: Report) -> None:
    host = config.gateway.bind.rpartition(":")[0].strip("[]")
    if not ipaddress.ip_address(host).is_loopback:
        report.warn(
            *settings.where("gateway.bind"),
            "is not a loopback address; callers from elsewhere are refused all the same",
            "bind 127.0.0.1 or [::1]",
        )
