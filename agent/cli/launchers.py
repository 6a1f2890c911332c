"""What upstream's three programs are told on their command lines (kata_integration.md 1.7).

Asked by a program that runs its role alone, and by the daemon that a launcher hands its role to, with the
launcher's arguments, environment and working directory.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec

from agent import __version__, handover
from agent.cli.sources import add_agent_config, add_initdata_options, load_files
from agent.roles import Role

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.config.assemble import InitDataFile
    from agent.config.model import Config

ROLES: Final = {
    handover.ATTESTER: Role.ATTESTER,
    handover.HUB: Role.HUB,
    handover.GATEWAY: Role.GATEWAY,
}
"""Program to the role it serves."""


class UsageError(Exception):
    """Arguments that cannot be; the text has the usage in it."""


class _Parser(argparse.ArgumentParser):
    """Raises instead of ending the process, which may be another's daemon."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.format_usage()}{self.prog}: error: {message}\n")


class Launch(msgspec.Struct, frozen=True):
    """What a launcher was told.

    Attributes:
        role: what it serves.
        config: the effective configuration of that role.
        arguments: as parsed.
    """

    role: Role
    config: Config
    arguments: argparse.Namespace


def read(
    program: str,
    arguments: Sequence[str],
    environ: Mapping[str, str] = os.environ,
    folder: str = "",
    init_data: InitDataFile | None = None,
) -> Launch:
    """The configuration that a program's command line asks for.

    Args:
        program: a key of ``ROLES``.
        arguments: without the program.
        environ: the launcher's environment.
        folder: where its relative paths start; empty: here.
        init_data: agent.toml of init-data, or None.

    Raises:
        UsageError: what cannot be parsed.
        AgentError: CONFIG_INVALID, FILE_UNSAFE.
    """
    role = ROLES[program]
    # As upstream's, no abbreviations: what asks for help or version is known before it is parsed.
    parser = _Parser(prog=program, description=_DESCRIPTIONS[program], allow_abbrev=False)
    parser.add_argument(
        "-V", "--version", action="version", version=f"Guest Components Version: coco-agent {__version__}"
    )
    add_agent_config(parser)
    overrides = _ARGUMENTS[program](parser)
    parser.set_defaults(aa=None, cdh=None, initdata_toml=None, initdata_digest=None)
    given = parser.parse_args(list(arguments))
    files = (given.aa, given.cdh, given.agent_config)
    aa, cdh, agent = (path if path is None else os.path.join(folder, path) for path in files)  # noqa: PTH118
    values = {field: value for field, name in overrides.items() if (value := vars(given)[name]) is not None}
    config = load_files(aa, cdh, agent, values, frozenset({role.value}), environ=environ, init_data=init_data)
    return Launch(role, config, given)


def _attester(parser: argparse.ArgumentParser) -> Mapping[str, str]:
    parser.add_argument("-a", "--attestation_sock", metavar="ADDRESS", help="unix://<path> to listen on")
    parser.add_argument(
        "-c", "--config-file", "--config_file", dest="aa", metavar="FILE", help="aa.toml or aa.json"
    )
    add_initdata_options(parser)
    return {"attester.socket": "attestation_sock"}


def _hub(parser: argparse.ArgumentParser) -> Mapping[str, str]:
    parser.add_argument("-c", "--config", dest="cdh", metavar="FILE", help="cdh.toml or cdh.json")
    return {}


def _gateway(parser: argparse.ArgumentParser) -> Mapping[str, str]:
    parser.add_argument("-b", "--bind", metavar="IP:PORT", help="address (default: 127.0.0.1:8006)")
    parser.add_argument(
        "-f", "--features", metavar="NAME", help="resource, attestation or all (default: resource)"
    )
    parser.add_argument("-c", "--cdh_addr", metavar="ADDRESS", help="hub's socket, unix://<path>")
    parser.add_argument("-a", "--aa_addr", metavar="ADDRESS", help="attester's socket, unix://<path>")
    return {
        "gateway.bind": "bind",
        "gateway.features": "features",
        "gateway.cdh_address": "cdh_addr",
        "gateway.aa_address": "aa_addr",
    }


_ARGUMENTS: Final = {
    handover.ATTESTER: _attester,
    handover.HUB: _hub,
    handover.GATEWAY: _gateway,
}
"""Each adds a program's own arguments, and says which of them set which field of the configuration."""

_DESCRIPTIONS: Final = {
    handover.ATTESTER: "Attester role of coco-agent: evidence and tokens over ttrpc.",
    handover.HUB: "Hub role of coco-agent: resources, sealed secrets, image keys over ttrpc.",
    handover.GATEWAY: "REST role of coco-agent, for workloads in the pod.",
}
