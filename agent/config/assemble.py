"""Everything that says how the agent is configured, put together. A pure function of its inputs.

Precedence, from strong to weak; docs/configuration.md has it per setting:

* aa.toml for the attester, cdh.toml for the hub; agent.toml's ``[kbs]`` fills what they leave empty;
* agent.toml of bound init-data, then the image's;
* where these are silent: command line arguments; ``AA_KBC_PARAMS``; the kernel command line. Where they
  speak, unmeasured places may only narrow (:mod:`agent.config.narrow`).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from agent.config import keys, limits, urls
from agent.config.cmdline import is_open, parameters
from agent.config.findings import Report, shown
from agent.config.keys import File
from agent.config.kinds import Refused
from agent.config.model import Origin, Source
from agent.config.reading import Layer, read_document
from agent.config.rules import judge
from agent.config.settings import Settings
from agent.config.sources import CC_KBC, Unmeasured, refuse_wider

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config.document import Document
    from agent.config.findings import Finding
    from agent.config.model import Config

ROLES: Final = frozenset({"attester", "hub", "gateway"})


class InitDataFile(msgspec.Struct, frozen=True):
    """agent.toml of init-data.

    Attributes:
        document: its content, from the very bytes whose digest was held against the hardware.
        bound: whether the hardware vouches for that digest; if not, it is one more unmeasured place.
    """

    document: Document
    bound: bool


class Inputs(msgspec.Struct, frozen=True):
    """All that decides about a configuration.

    Attributes:
        aa: aa.toml, or None when no file is named.
        cdh: cdh.toml, or None.
        agent: agent.toml, or None.
        init_data: agent.toml of init-data, or None.
        environ: environment variables.
        cmdline: the kernel command line.
        arguments: model field to text; the fields of ``keys.ARGUMENTS``.
        contents: texts of files that keys name, by path; None for one that cannot be read here.
        roles: roles this process serves. Unmeasured values for others are left alone: a hub's settings from
            the kernel command line mean nothing to a process that is not given the hub's file.
    """

    aa: Document | None = None
    cdh: Document | None = None
    agent: Document | None = None
    environ: Mapping[str, str] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    cmdline: str = ""
    arguments: Mapping[str, str] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    contents: Mapping[str, str | None] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    roles: frozenset[str] = ROLES
    init_data: InitDataFile | None = None


def assemble(inputs: Inputs) -> Config:
    """The effective configuration.

    Raises:
        AgentError: CONFIG_INVALID; the detail names file and key of what is wrong.
    """
    settings, report = collect(inputs)
    report.raise_blocking()
    # Errors that show only at first use are told at the start, too.
    told = tuple(finding.sentence() for finding in report.findings)
    return replace(settings.build(), warnings=told)


def findings(inputs: Inputs) -> list[Finding]:
    """All that is wrong or looks wrong, in the order of reading. Raises nothing."""
    return collect(inputs)[1].findings


def collect(inputs: Inputs) -> tuple[Settings, Report]:
    """Settings and findings; the settings are complete only when no finding is blocking."""
    settings, report = Settings(), Report()
    for file, document in ((File.AA, inputs.aa), (File.CDH, inputs.cdh)):
        if document is not None:
            read_document(Layer(file, document), settings, report, inputs.contents)
    _agent(inputs, settings, report)
    kernel = _kernel(inputs.cmdline, report)
    unmeasured = Unmeasured(inputs.environ, kernel, settings, report)
    if "attester" in inputs.roles:
        unmeasured.attester(has_file=inputs.aa is not None)
    if "hub" in inputs.roles:
        unmeasured.hub(has_file=inputs.cdh is not None)
    unmeasured.observe()
    _hub_url(settings, report)
    _arguments(inputs.arguments, settings, report)
    config = settings.build()
    judge(config, settings, kernel, report)
    if inputs.init_data is not None and inputs.roles == {"attester"} and not config.control.launchers:
        # T-CONF-43: else the pod's own settings would count for one role and not for the others.
        report.refuse(
            *settings.where("control.launchers"),
            "is false, so hub and gateway would not see the agent.toml of init-data",
            "leave one of them out",
        )
    return settings, report


def _agent(inputs: Inputs, settings: Settings, report: Report) -> None:
    """agent.toml: bound init-data's before the image's, key by key; unbound init-data's after it."""
    layers = [] if inputs.agent is None else [Layer(File.AGENT, inputs.agent)]
    if inputs.init_data is not None:
        source = Source.INIT_DATA if inputs.init_data.bound else Source.UNBOUND
        layer = Layer(File.AGENT, inputs.init_data.document, source)
        layers.insert(0 if inputs.init_data.bound else len(layers), layer)
    over: frozenset[str] = frozenset()
    for layer in layers:
        unmeasured = layer.source is Source.UNBOUND
        over |= read_document(
            layer if unmeasured else replace(layer, over=over), settings, report, inputs.contents
        )
        _agent_broker(layer, settings, report)


def _agent_broker(layer: Layer, settings: Settings, report: Report) -> None:
    """agent.toml's ``[kbs]``: it stands for a hub's file where there is none."""
    document, origin = layer.document, Origin(layer.source, layer.document.path)
    for role in ("attester.kbs", "hub.kbs"):
        # Of several endpoints the first one stands for the broker where nothing else names it.
        if not settings.has(f"{role}.url") and (servers := settings.servers(f"{role}.endpoints")):
            settings.put(f"{role}.url", servers[0].url, origin, "kbs.endpoints")
    if settings.has("hub.kbs.url") and "hub.kbc" not in settings.given:
        settings.put("hub.kbc", CC_KBC, origin, "kbs.url")
    table = document.tree.get("kbs")
    if isinstance(table, dict) and table.get("cert") and table.get("cert_file"):
        report.refuse(document.path, "kbs.cert_file", "stands beside kbs.cert", "keep one of them")


def _kernel(cmdline: str, report: Report) -> dict[str, str]:
    # T-CONF-8: the host writes this text.
    if len(cmdline) > limits.CMDLINE_MAX:
        report.error(
            Source.KERNEL.value, "", f"is longer than {limits.CMDLINE_MAX} characters; it is ignored"
        )
        return {}
    if is_open(cmdline):
        report.warn(
            Source.KERNEL.value, "", "has a quote that is never closed; what follows it is one parameter"
        )
    return parameters(cmdline)


def _hub_url(settings: Settings, report: Report) -> None:
    """The hub's broker URL means something for ``cc_kbc`` only (cdh.md 3.2)."""
    url = settings.text("hub.kbs.url")
    if settings.text("hub.kbc") != CC_KBC:
        settings.drop("hub.kbs.url")
        return
    given = settings.given.get("hub.kbs.url")
    if given is None:
        return
    wrong = urls.problem(url) if url else ""
    if wrong:
        report.refuse(
            *settings.where("hub.kbs.url"),
            f"names a broker URL that {wrong}",
            "write it as https://<host>:<port>",
        )
        settings.put("hub.kbs.url", "", given.origin, given.key)
        return
    settings.put("hub.kbs.url", url.rstrip("/"), given.origin, given.key)


def _arguments(arguments: Mapping[str, str], settings: Settings, report: Report) -> None:
    for name, text in arguments.items():
        kind = keys.ARGUMENTS.get(name)
        if kind is None:
            report.refuse(Source.COMMAND_LINE.value, shown(name), "cannot be set there")
            continue
        try:
            value = kind.read(text)
        except Refused as refused:
            report.refuse(Source.COMMAND_LINE.value, name, str(refused), refused.next_step)
            continue
        origin = Origin(Source.COMMAND_LINE, name)
        if not settings.offer(name, value, origin, name):
            refuse_wider(settings, name, origin, name, report)
