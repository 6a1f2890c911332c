"""One configuration file as a tree of tables: TOML and JSON, chosen by the file's extension."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, cast

import msgspec

from agent.config import limits, toml
from agent.config.findings import shown, shown_path
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    Table = Mapping[str, object]

EXTENSIONS: Final = (".toml", ".json")
_REASON_MAX: Final = 120


class Document(msgspec.Struct, frozen=True):
    """A parsed file.

    Attributes:
        path: as it is named in messages and origins.
        tree: tables are mappings, arrays are lists, TOML dates are ``datetime`` objects.
    """

    path: str
    tree: Table


def parse(path: str, content: bytes, name: str = "") -> Document:
    """A file's content as tables. No extension: TOML first, then JSON.

    Args:
        path: as it is named in messages and origins.
        content: of the file.
        name: the name with the extension that counts, if it is not ``path``: a part of init-data.

    Raises:
        AgentError: CONFIG_INVALID (another extension, not UTF-8, syntax, size, not a table at the top).
    """
    suffix = PurePosixPath(name or path).suffix
    # T-CONF-3: parsers see bounded input only.
    if len(content) > limits.CONFIG_MAX_FILE:
        raise _invalid(path, f"larger than {limits.CONFIG_MAX_FILE} bytes")
    if suffix == ".toml":
        return Document(path, _toml(path, content))
    if suffix == ".json":
        return Document(path, _json(path, content))
    if suffix:
        supported = " and ".join(EXTENSIONS)
        raise _invalid(path, f"{shown(suffix)!r} is not a supported extension; there are {supported}")
    try:
        return Document(path, _toml(path, content))
    except AgentError:
        if not content.removeprefix(toml.BOM).lstrip().startswith(b"{"):
            raise
    return Document(path, _json(path, content))


def _toml(path: str, content: bytes) -> Table:
    try:
        return toml.loads(content)
    except toml.TomlError as error:
        raise _invalid(path, shown(str(error), _REASON_MAX)) from None


def _json(path: str, content: bytes) -> Table:
    try:
        tree: object = msgspec.json.decode(toml.decode(content))
    except msgspec.DecodeError as error:
        raise _invalid(path, f"not JSON: {shown(str(error))}") from None
    except toml.TomlError as error:
        raise _invalid(path, str(error)) from None
    except RecursionError:
        raise _invalid(path, "nested too deeply") from None
    if not isinstance(tree, dict):
        raise _invalid(path, "not a JSON object")
    return cast("Table", tree)


def _invalid(path: str, message: str) -> AgentError:
    return AgentError(ErrorCode.CONFIG_INVALID, f"{shown_path(path)}: {message}")
