"""What an attacking connection sends, by name of the attack. Nothing here does IO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.bench import material
from tests.bench.calls import HEADER, REQUEST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MIB: Final = 1 << 20
NEARLY_MIB: Final = MIB - 1
FRAME: Final = 4 * MIB - 1024


@dataclass(frozen=True, slots=True)
class Script:
    """What one connection does.

    Attributes:
        send: at once, as far as the agent takes it.
        drip: then one of these bytes each second, again and again; nothing when empty.
        listens: it reads what is answered and has done its part then. Without, it never reads.
    """

    send: bytes
    drip: bytes = b""
    listens: bool = False


@dataclass(frozen=True, slots=True)
class Attack:
    """One row.

    Attributes:
        name: in the keys of bench.json, after ``attack_``.
        count: connections at the same time.
        script: what the connection with this number does.
        ttrpc: against the data hub's socket instead of REST.
        silent: the broker answers no request for a resource while it lasts.
        holds: resources that are in the cache before it begins.
    """

    name: str
    count: int
    script: Callable[[int], Script]
    ttrpc: bool = False
    silent: bool = False
    holds: tuple[str, ...] = (material.HOT,)


def _head(line: str, *fields: str) -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", "Host: 127.0.0.1", *fields, "", ""]).encode()


_JSON = "Content-Type: application/json"
_BODY = b'["' + bytes(b"a" * (NEARLY_MIB - 2))
_ANNOUNCED = _head("POST /cdh/unseal", _JSON, f"Content-Length: {MIB}") + _BODY
_CHUNKED = _head("POST /cdh/unseal", _JSON, "Transfer-Encoding: chunked") + b"%x\r\n" % MIB + _BODY
_OPEN_HEAD = b"GET /cdh/resource/default/a/b HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: "
_BIG = _head(f"GET /cdh/resource/{material.BIG}")
_FRAME = HEADER.pack(FRAME, 1, REQUEST, 0) + bytes(FRAME - 1)


def _bodies(number: int) -> Script:
    return Script(_CHUNKED if number % 2 else _ANNOUNCED)


def _heads(number: int) -> Script:
    return Script(_OPEN_HEAD, drip=b"a" if number % 2 else b"")


def _slow_names(number: int) -> Script:
    return Script(_head(f"GET /cdh/resource/default/slow/{number}"), listens=True)


ATTACKS: Final[Mapping[str, Attack]] = {
    attack.name: attack
    for attack in (
        Attack("bodies", 2000, _bodies),
        Attack("unread", 1500, lambda _: Script(_BIG), holds=(material.HOT, material.BIG)),
        Attack("heads", 2300, _heads),
        Attack("slow_names", 2060, _slow_names, silent=True),
        Attack("ttrpc", 256, lambda _: Script(_FRAME), ttrpc=True),
    )
}
