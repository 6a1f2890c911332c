"""A reader for the CBOR that evidence is made of (RFC 8949): definite lengths, no floats, bounded."""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from agent.tee.evidence.reader import Reader

MAX_DEPTH: Final = 8
"""Nesting; a CCA token has five levels with its tags."""

MAX_ITEMS: Final = 4096
"""Items of one document; a CCA token has about a hundred."""

Value: TypeAlias = "int | bytes | str | bool | list[Value] | dict[int | str, Value] | Tagged | None"


class Tagged(msgspec.Struct, frozen=True):
    """A value with a tag number."""

    tag: int
    value: Value


def decode(data: bytes, what: str = "CBOR") -> Value:
    """One value and nothing behind it.

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    decoder = _Decoder(Reader(data, what))
    value = decoder.value(0)
    if decoder.reader.left:
        raise decoder.reader.wrong(f"{decoder.reader.left} bytes behind the value")
    return value


class _Decoder:
    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._items = 0

    def value(self, depth: int) -> Value:
        self._items += 1
        # T-TEE-9: a count in the input makes no list; every item has to be there.
        if depth > MAX_DEPTH or self._items > MAX_ITEMS:
            raise self.reader.wrong("nested too deep, or too many items")
        major, number = self._head()
        found: Value
        match major:
            case 0 | 1:
                found = number if major == 0 else -1 - number
            case 2:
                found = self.reader.take(number, "bytes")
            case 3:
                found = self._text(number)
            case 4:
                found = [self.value(depth + 1) for _ in range(number)]
            case 5:
                found = self._map(number, depth)
            case 6:
                found = Tagged(number, self.value(depth + 1))
            case _:
                found = self._simple(number)
        return found

    def _head(self) -> tuple[int, int]:
        first = self.reader.u8("head")
        major, low = first >> 5, first & 0x1F
        if low < 24:
            return major, low
        if low > 27 or major == 7:
            raise self.reader.wrong(f"head {first:#04x} at offset {self.reader.at - 1}")
        return major, int.from_bytes(self.reader.take(1 << low - 24, "number"), "big")

    def _text(self, size: int) -> str:
        try:
            return self.reader.take(size, "text").decode()
        except UnicodeDecodeError:
            raise self.reader.wrong("text that is not UTF-8") from None

    def _map(self, count: int, depth: int) -> dict[int | str, Value]:
        found: dict[int | str, Value] = {}
        for _ in range(count):
            key = self.value(depth + 1)
            if not isinstance(key, int | str) or isinstance(key, bool) or key in found:
                raise self.reader.wrong("a key that is no number or text, or twice")
            found[key] = self.value(depth + 1)
        return found

    def _simple(self, number: int) -> Value:
        known: dict[int, bool | None] = {20: False, 21: True, 22: None}
        if number not in known:
            raise self.reader.wrong(f"simple value {number}")
        return known[number]
