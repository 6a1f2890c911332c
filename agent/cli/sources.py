"""Where commands and launchers read the configuration from."""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.config.model import INIT_DATA_FILE
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Mapping

    from agent.config.assemble import InitDataFile
    from agent.config.model import Attester, Config
    from agent.tee.initdata import InitData

AGENT_CONFIG = "/etc/coco-agent/agent.toml"
"""Read when it is there and no other file is named. Part of the measured image."""

AGENT_PART = "agent.toml"
"""Its name in init-data."""

ALL_ROLES = frozenset({"attester", "hub", "gateway"})

_CMDLINE = "/proc/cmdline"
_CMDLINE_MAX = 64 * 1024


def add_config_options(parser: ArgumentParser) -> None:
    """The files, and what upstream has as launcher flags."""
    parser.add_argument("--aa-config", metavar="FILE", help="aa.toml: the attester's file, as upstream's")
    parser.add_argument("--cdh-config", metavar="FILE", help="cdh.toml: the hub's file, as upstream's")
    add_agent_config(parser)
    parser.add_argument("--attestation-sock", metavar="ADDRESS", help="attester's socket, unix://<path>")
    parser.add_argument("--bind", metavar="IP:PORT", help="REST address (default: 127.0.0.1:8006)")
    parser.add_argument("--features", metavar="NAME", help="REST routes: resource, attestation or all")


def add_agent_config(parser: ArgumentParser) -> None:
    """``--agent-config``, the one option upstream's programs do not have."""
    parser.add_argument(
        "--agent-config",
        metavar="FILE",
        help=f"agent.toml: what upstream's files cannot say (default: {AGENT_CONFIG} if it exists)",
    )


def load_config(
    arguments: Namespace, roles: frozenset[str] = ALL_ROLES, init_data: InitDataFile | None = None
) -> Config:
    """The effective configuration for the options of :func:`add_config_options`.

    Raises:
        AgentError: CONFIG_INVALID, FILE_UNSAFE.
    """
    overrides = {
        "attester.socket": arguments.attestation_sock,
        "gateway.bind": arguments.bind,
        "gateway.features": arguments.features,
    }
    return load_files(
        arguments.aa_config,
        arguments.cdh_config,
        arguments.agent_config,
        {name: value for name, value in overrides.items() if value is not None},
        roles,
        init_data=init_data,
    )


def load_files(
    aa: str | None,
    cdh: str | None,
    agent: str | None,
    arguments: Mapping[str, str],
    roles: frozenset[str],
    *,
    environ: Mapping[str, str] = os.environ,
    init_data: InitDataFile | None = None,
) -> Config:
    """Read files, environment and kernel command line into one configuration.

    Args:
        aa: aa.toml, or None.
        cdh: cdh.toml, or None.
        agent: agent.toml; None for :data:`AGENT_CONFIG` if that exists.
        arguments: dotted model field to text, from the command line.
        roles: what is served with it; settings of other roles are not judged.
        environ: of whoever wants it served.
        init_data: agent.toml of init-data, or None.

    Raises:
        AgentError: CONFIG_INVALID, FILE_UNSAFE.
    """
    from agent.config.load import load  # noqa: PLC0415  # keeps --help light

    if agent is None and Path(AGENT_CONFIG).exists():
        agent = AGENT_CONFIG
    return load(
        aa=aa,
        cdh=cdh,
        agent=agent,
        environ=environ,
        cmdline=kernel_command_line(),
        arguments=arguments,
        roles=roles,
        init_data=init_data,
    )


def add_initdata_options(parser: ArgumentParser) -> None:
    """Init-data, which is held against the hardware before anything is served."""
    binding = parser.add_mutually_exclusive_group()
    binding.add_argument(
        "-t", "--initdata-toml", "--initdata_toml", metavar="FILE", help="init-data to bind and to send"
    )
    binding.add_argument(
        "-i", "--initdata-digest", "--initdata_digest", metavar="BASE64", help="init-data digest to bind"
    )


class Beginning(msgspec.Struct, frozen=True):
    """What a daemon begins with, once init-data is bound.

    Attributes:
        config: the effective configuration, with what init-data's agent.toml says.
        text: init-data to send with every attestation.
        init_data: agent.toml of init-data, for the roles of launchers.
    """

    config: Config
    text: str | None = None
    init_data: InitDataFile | None = None


def begin(
    config: Config, arguments: Namespace, again: Callable[[InitDataFile], Config], *, own: bool = False
) -> Beginning:
    """Bind what :func:`add_initdata_options` was given, and read the agent.toml in it.

    Args:
        config: without init-data. It alone decides how init-data is bound.
        arguments: of the command line.
        again: the configuration with init-data's agent.toml.
        own: a role that its caller gives no init-data, in a process of its own: kata-agent's document is
            bound once more when it holds an agent.toml, so that all roles see the same settings.

    Raises:
        AgentError: INIT_DATA_MISMATCH and others of :mod:`agent.tee.binding`; CONFIG_INVALID.
    """
    path = arguments.initdata_toml or (INIT_DATA_FILE if own and Path(INIT_DATA_FILE).exists() else None)
    if not path:
        if arguments.initdata_digest:
            _bind(_digest(arguments.initdata_digest), config.attester)
        return Beginning(config)
    from agent.tee.binding import read_document  # noqa: PLC0415  # only for those who have init-data

    document = read_document(path)
    if own and AGENT_PART not in document.data:
        return Beginning(config)
    bound = _bind(document.digest, config.attester)
    # T-CONF-44: from the bytes that were bound; a file beside them could be another one by now.
    file = agent_part(document, path, bound=bound)
    return Beginning(config if file is None else again(file), document.text, file)


def agent_part(document: InitData, path: str, *, bound: bool = True) -> InitDataFile | None:
    """agent.toml of an init-data document, if it has one.

    Args:
        document: as read.
        path: of the document, for messages and origins.
        bound: whether the hardware vouches for it.

    Raises:
        AgentError: CONFIG_INVALID, not TOML.
    """
    from agent.config.assemble import InitDataFile  # noqa: PLC0415  # only for those who have init-data
    from agent.config.document import parse  # noqa: PLC0415

    text = document.data.get(AGENT_PART)
    return (
        None
        if text is None
        else InitDataFile(parse(f"{path}[{AGENT_PART}]", text.encode(), AGENT_PART), bound)
    )


def _bind(digest: bytes, settings: Attester) -> bool:
    import asyncio  # noqa: PLC0415  # only for those who have init-data

    from agent.clock import Deadline, SystemClock  # noqa: PLC0415
    from agent.config import limits  # noqa: PLC0415
    from agent.tee.binding import bind_digest  # noqa: PLC0415

    deadline = Deadline.after(SystemClock(), limits.BIND_DEADLINE)
    return asyncio.run(bind_digest(digest, settings, deadline))


def _digest(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise AgentError(ErrorCode.CONFIG_INVALID, "--initdata-digest is not standard base64") from None


def kernel_command_line() -> str:
    """``/proc/cmdline``; empty where there is none.

    Raises:
        AgentError: CONFIG_INVALID when it is not text.
    """
    try:
        with Path(_CMDLINE).open("rb") as file:
            return file.read(_CMDLINE_MAX).decode()
    except OSError:
        return ""
    except UnicodeDecodeError:
        raise AgentError(ErrorCode.CONFIG_INVALID, f"{_CMDLINE} is not UTF-8") from None
