"""What the commands print, and how they end."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from agent.errors import AgentError

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2


def fail(error: AgentError, *, as_json: bool = False) -> int:
    """Print an error with its next step to standard error; the exit status."""
    if as_json:
        message, hint = words(error)
        print_json(
            {"code": error.code.name, "message": message, "hint": hint, "detail": error.detail},
            file=sys.stderr,
        )
        return EXIT_FAILED
    sys.stderr.write(told(error))
    return EXIT_FAILED


def told(error: AgentError) -> str:
    """An error with its cause and its next step, a line each."""
    message, hint = words(error)
    cause = f"  cause: {error.detail}\n" if error.detail else ""
    return f"error: {error.code.name}: {message}\n{cause}  next:  {hint}\n"


def words(error: AgentError) -> tuple[str, str]:
    """What happened and the next step, for somebody who typed a command."""
    # The code's own words are for a program that asked over HTTP, which has a route table to read.
    if error.code.name == "INVALID_REQUEST":
        return (
            "The command cannot be carried out as it was given.",
            "Correct what the cause names; the command's --help lists its arguments.",
        )
    return error.message, error.hint


def print_json(value: object, file: TextIO | None = None) -> None:
    """One JSON document, for programs."""
    print(json.dumps(value, indent=2), file=file)


def colourful() -> bool:
    """Whether standard output is a terminal that wants colours (NO_COLOR, set to anything, is a no)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def painted(words: str, colour: str) -> str:
    """Words in a colour of a terminal, as the number of its escape sequence, e.g. ``31`` for red."""
    return f"\x1b[{colour}m{words}\x1b[0m"


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Columns aligned with two spaces; the last one is not padded."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return "\n".join(lines)
