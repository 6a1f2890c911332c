"""The kernel command line, as the kernel itself takes it apart (next_arg in its lib/cmdline.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

QUOTE: Final = '"'
_SPACE: Final = frozenset(" \t\n\v\f\r")


def words(text: str) -> Iterator[str]:
    """Its words. White space inside double quotes is part of a word, and the quotes still stand."""
    begin, quoted = 0, False
    for at, char in enumerate(text):
        if char == QUOTE:
            quoted = not quoted
        elif char in _SPACE and not quoted:
            if at > begin:
                yield text[begin:at]
            begin = at + 1
    if begin < len(text):
        yield text[begin:]


def parameters(text: str) -> dict[str, str]:
    """``name=value`` words; of a repeated one the first counts.

    Quotes around the whole word or around the value are taken off, as the kernel does. What stands inside
    another parameter's quotes is no parameter of its own.
    """
    # T-CONF-41: the host writes this text, and others quote it; a broker inside another value is not one.
    found: dict[str, str] = {}
    for word in words(text):
        bare = word.removeprefix(QUOTE)
        name, separator, value = (bare.removesuffix(QUOTE) if bare != word else word).partition("=")
        if separator:
            found.setdefault(name, unquoted(value))
    return found


def is_open(text: str) -> bool:
    """Whether a quote is opened and never closed, so that the last parameter holds all that follows it."""
    return text.count(QUOTE) % 2 == 1


def unquoted(text: str) -> str:
    """A value without one pair of quotes, single or double, around all of it.

    Env files of container engines keep quotes that a shell would take off, and so do templates.
    """
    bare = text.strip()
    return bare[1:-1] if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "'\"" else text
