"""One configuration file as a tree of tables: TOML and JSON, chosen by the file's extension."""

from __future__ import annotations

import tomllib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, cast

import msgspec

from agent.config import limits
from agent.config.findings import shown, shown_path
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    Table = Mapping[str, object]

EXTENSIONS: Final = (".toml", ".json")


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
        if not content.lstrip().startswith(b"{"):
            raise
    return Document(path, _json(path, content))


def _toml(path: str, content: bytes) -> Table:
    try:
        return tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _invalid(path, f"not UTF-8 at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise _invalid(path, f"not TOML: {shown(str(error))}") from None
    except ValueError:
        # Numbers with too many digits, dates that do not exist: not wrapped by tomllib.
        raise _invalid(path, "not TOML: a number or date is out of range") from None
    except RecursionError:
        raise _invalid(path, "nested too deeply") from None


def _json(path: str, content: bytes) -> Table:
    try:
        tree: object = msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        raise _invalid(path, f"not JSON: {shown(str(error))}") from None
    except UnicodeDecodeError as error:
        raise _invalid(path, f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise _invalid(path, "nested too deeply") from None
    if not isinstance(tree, dict):
        raise _invalid(path, "not a JSON object")
    return cast("Table", tree)


def _invalid(path: str, message: str) -> AgentError:
    return AgentError(ErrorCode.CONFIG_INVALID, f"{shown_path(path)}: {message}")
