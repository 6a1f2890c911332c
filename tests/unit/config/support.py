"""Short ways to a configuration."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from agent.config.assemble import ROLES, Inputs, assemble, findings
from agent.config.document import Document, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config.findings import Finding
    from agent.config.model import Config

URL = "https://kbs.example:8080"
OTHER = "https://other.example"
PEM = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
PIN = "sha256/" + base64.b64encode(bytes(range(32))).decode()
BELOW = "/run/confidential-containers/cdh/kbs"

AA = f'[token_configs.kbs]\nurl = "{URL}"\n'
CDH = f'[kbc]\nname = "cc_kbc"\nurl = "{URL}"\n'
OFFLINE = '[kbc]\nname = "offline_fs_kbc"\n'


def toml(name: str, text: str | None) -> Document | None:
    return None if text is None else parse(name, text.encode())


def inputs(
    *,
    aa: str | None = None,
    cdh: str | None = None,
    agent: str | None = None,
    environ: Mapping[str, str] | None = None,
    cmdline: str = "",
    arguments: Mapping[str, str] | None = None,
    contents: Mapping[str, str | None] | None = None,
    roles: frozenset[str] = ROLES,
) -> Inputs:
    return Inputs(
        toml("aa.toml", aa),
        toml("cdh.toml", cdh),
        toml("agent.toml", agent),
        environ or {},
        cmdline,
        arguments or {},
        contents or {},
        roles,
    )


def config(
    *,
    aa: str | None = None,
    cdh: str | None = None,
    agent: str | None = None,
    environ: Mapping[str, str] | None = None,
    cmdline: str = "",
    arguments: Mapping[str, str] | None = None,
    contents: Mapping[str, str | None] | None = None,
    roles: frozenset[str] = ROLES,
) -> Config:
    return assemble(
        inputs(
            aa=aa,
            cdh=cdh,
            agent=agent,
            environ=environ,
            cmdline=cmdline,
            arguments=arguments,
            contents=contents,
            roles=roles,
        )
    )


def found(
    *, aa: str | None = None, cdh: str | None = None, agent: str | None = None, cmdline: str = ""
) -> list[Finding]:
    return findings(inputs(aa=aa, cdh=cdh, agent=agent, cmdline=cmdline))
