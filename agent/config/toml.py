"""TOML 1.1, as upstream's parsers read it: the one reader of configuration files and of init-data.

The standard library's ``tomllib`` is TOML 1.0 until Python 3.15 (docs/adr/0013).
"""

from __future__ import annotations

import re
from typing import Final

import tomli

BOM: Final = b"\xef\xbb\xbf"
"""UTF-8's byte order mark, as Windows editors write it. It may stand at the very start and nowhere else."""

_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
_LEAP_SECOND: Final = re.compile(r"[0-2][0-9]:[0-5][0-9]:60")


class TomlError(ValueError):
    """A text that is not TOML.

    Attributes:
        place: ``line 3, column 5``, which holds nothing of the text; empty when it is the whole text.
    """

    def __init__(self, reason: str, place: str = "") -> None:
        super().__init__(reason)
        self.place = place


def loads(content: bytes) -> dict[str, object]:
    """A document as tables: tables are dicts, arrays are lists, dates are of ``datetime``.

    Args:
        content: UTF-8, with or without :data:`BOM`; bounded by the caller.

    Raises:
        TomlError: the reason can quote names and characters of the text.
    """
    text = decode(content)
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise TomlError(_reason(error), f"line {error.lineno}, column {error.colno}") from None
    except ValueError:
        # Numbers with too many digits, dates that do not exist: not wrapped by the parser.
        raise TomlError("not TOML: a number or date is out of range") from None
    except RecursionError:
        raise TomlError("nested too deeply") from None


def decode(content: bytes) -> str:
    """A configuration file's text, without the mark at its start.

    Raises:
        TomlError: not UTF-8; one in UTF-16 is named, since upstream reads that.
    """
    if content.startswith(_UTF16):
        raise TomlError("not UTF-8 but UTF-16; save it as UTF-8")
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise TomlError(f"not UTF-8 at byte {error.start}") from None


def _reason(error: tomli.TOMLDecodeError) -> str:
    line = error.doc.splitlines()[error.lineno - 1 : error.lineno] if error.pos < len(error.doc) else []
    if any(_LEAP_SECOND.search(text) for text in line):
        return f"has a leap second, which is not read here (at line {error.lineno}, column {error.colno})"
    return f"not TOML: {error}"
