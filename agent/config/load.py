"""The edge: reads the named files and puts the configuration together."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from agent.config import limits
from agent.config.assemble import ROLES, InitDataFile, Inputs, assemble
from agent.config.document import EXTENSIONS, Document, parse
from agent.config.findings import shown_path
from agent.errors import AgentError, ErrorCode
from agent.files import read_trusted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config.model import Config

_NO_ARGUMENTS: Final[Mapping[str, str]] = MappingProxyType({})


def load(
    *,
    aa: str | None,
    cdh: str | None,
    agent: str | None,
    environ: Mapping[str, str],
    cmdline: str,
    arguments: Mapping[str, str] = _NO_ARGUMENTS,
    roles: frozenset[str] = ROLES,
    init_data: InitDataFile | None = None,
) -> Config:
    """The effective configuration.

    Args:
        aa: path of aa.toml or aa.json, or None.
        cdh: path of cdh.toml or cdh.json, or None.
        agent: path of agent.toml, or None.
        environ: environment variables.
        cmdline: the kernel command line.
        arguments: dotted model field to text, for what the command line set; see ``keys.ARGUMENTS``.
        roles: ``attester``, ``hub``, ``gateway``: which of them this process serves.
        init_data: agent.toml of init-data, or None.

    Raises:
        AgentError: CONFIG_INVALID; FILE_UNSAFE for a file others could have written or redirected.
    """
    ours = _document(agent)
    inputs = Inputs(
        aa=_document(aa),
        cdh=_document(cdh),
        agent=ours,
        environ=environ,
        cmdline=cmdline,
        arguments=arguments,
        contents=_contents(ours) | _contents(None if init_data is None else init_data.document),
        roles=roles,
        init_data=init_data,
    )
    return assemble(inputs)


def cert_file(document: Document | None) -> str | None:
    """The path in agent.toml's ``kbs.cert_file``, if it is one."""
    table = document.tree.get("kbs") if document else None
    path = table.get("cert_file") if isinstance(table, dict) else None
    return path if isinstance(path, str) else None


def plain(path: str) -> str:
    """A path without ``.`` and ``..``, which :func:`read_trusted` refuses; links stay refused."""
    normal = os.path.normpath(path)
    return os.path.abspath(path) if normal.split("/")[0] == ".." else normal  # noqa: PTH100


def _document(path: str | None) -> Document | None:
    if path is None:
        return None
    content = _read(path)
    if content is not None:
        return parse(path, content)
    if not PurePosixPath(path).suffix:
        # Upstream tries a name without extension with each one it knows (cdh.md 3.1).
        for extension in EXTENSIONS:
            content = _read(path + extension)
            if content is not None:
                return parse(path + extension, content)
    raise AgentError(ErrorCode.CONFIG_INVALID, f"{shown_path(path)}: there is no such file")


def _read(path: str) -> bytes | None:
    try:
        # T-CONF-12: no links, no foreign writers, bounded (SR-01).
        return read_trusted(plain(path), limits.CONFIG_MAX_FILE)
    except FileNotFoundError:
        return None


def _contents(document: Document | None) -> dict[str, str | None]:
    path = cert_file(document)
    if path is None:
        return {}
    content = _read(path)
    if content is None:
        raise AgentError(
            ErrorCode.CONFIG_INVALID, f"kbs.cert_file: {shown_path(path)}: there is no such file"
        )
    return {path: content.decode("utf-8", "replace")}  # bundles have comments, in any language
