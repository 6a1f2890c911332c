"""Request headers that choose an answer's form, time or freshness: Accept, Prefer and Cache-Control."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_QUALITY: Final = re.compile(r"0(?:\.\d{0,3})?|1(?:\.0{0,3})?", re.ASCII)
_WAIT: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_JSON: Final = ("application/json", "application/problem+json")


def wants_json(values: Sequence[str]) -> bool:
    """Whether a caller asks for JSON error bodies.

    It has to name ``application/json``, ``application/problem+json`` or ``application/*``, and not
    prefer ``text/plain``; ``*/*`` alone gets text. Ranges that do not parse are ignored (RFC 9110
    section 12.5.1).

    Args:
        values: every Accept header of the request.
    """
    ranges = dict(_ranges(values))
    json = max(ranges.get(name, ranges.get("application/*", 0.0)) for name in _JSON)
    text = ranges.get("text/plain", ranges.get("text/*", 0.0))
    return json > 0.0 and json >= text


def _ranges(values: Iterable[str]) -> Iterable[tuple[str, float]]:
    for item in ",".join(values).split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        quality = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                quality = float(value) if _QUALITY.fullmatch(value.strip()) else 0.0
        if name:
            yield name, quality


def no_cache(values: Iterable[str]) -> bool:
    """Whether the broker has to be asked (``Cache-Control: no-cache``, RFC 9111 section 5.2.1.4)."""
    return any(item.strip().lower() == "no-cache" for value in values for item in value.split(","))


def preferred_wait(values: Sequence[str]) -> float | None:
    """Seconds the caller wants to wait at most (``Prefer: wait=N``, RFC 7240 section 4.3).

    Returns:
        The first positive ``wait``; None when there is none or it does not parse.
    """
    for item in ",".join(values).split(","):
        name, _, value = item.split(";", 1)[0].partition("=")
        if name.strip().lower() == "wait":
            text = value.strip().strip('"')
            seconds = int(text) if _WAIT.fullmatch(text) else 0
            return float(seconds) if seconds > 0 else None
    return None
