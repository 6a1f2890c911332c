"""As much CBOR (RFC 8949) as tokens and documents need; apart from the agent's own, which reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tag:
    """A tagged value."""

    number: int
    value: object


def encode(value: object) -> bytes:
    """One value: int, bytes, str, list, dict or :class:`Tag`."""
    match value:
        case int():
            return _head(0, value) if value >= 0 else _head(1, -1 - value)
        case bytes():
            return _head(2, len(value)) + value
        case str():
            return _head(3, len(value)) + value.encode("ascii")
        case list():
            return _head(4, len(value)) + b"".join(map(encode, value))
        case dict():
            return _head(5, len(value)) + b"".join(encode(key) + encode(each) for key, each in value.items())
        case Tag(number, inner):
            return _head(6, number) + encode(inner)
    raise TypeError(type(value))


def _head(kind: int, number: int) -> bytes:
    if number < 24:
        return bytes([kind << 5 | number])
    for extra, size in ((24, 1), (25, 2), (26, 4)):
        if number < 1 << 8 * size:
            return bytes([kind << 5 | extra]) + number.to_bytes(size, "big")
    raise ValueError(number)
