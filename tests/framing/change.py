"""Neighbours of HTTP messages: what a reader that guesses would take for something else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

_PIECES: Final = (
    *(bytes([each]) for each in b"\r\n \t\x0b\x0c\x00\x01\x7f\x80\xff:;,=\"'+-_0139afxX/?#%*"),
    b"\r\n",
    b"\r\n\r\n",
    b"\n\n",
    b"\r\n ",
    b"\r\n\t",
    b"0\r\n\r\n",
    b"3\r\nabc\r\n",
    b"Content-Length: 3\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length:3,3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b", chunked",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Upgrade: websocket\r\nConnection: upgrade\r\n",
    b"Expect: 100-continue\r\n",
    b"Host: b\r\n",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 204 x\r\n\r\n",
    b"GET /y HTTP/1.1\r\nHost: a\r\n\r\n",
    b"0x",
    b"00000000",
    b"ffffffffffffffff",
    b"18446744073709551616",
)


def change(data: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    """A few pieces put in, taken out, doubled, moved, or taken from another message."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        at = draw.randrange(len(changed) + 1)
        size = draw.choice((1, 1, 2, 3, 8))
        match draw.randrange(8):
            case 0 | 1:
                changed[at:at] = draw.choice(_PIECES)
            case 2:
                changed[at : at + size] = draw.choice(_PIECES)
            case 3:
                del changed[at : at + size]
            case 4:
                _swap_lines(changed, draw)
            case 5:
                _put_line(changed, draw.choice(_PIECES), draw)
            case 6:
                other = draw.choice(others)
                start = draw.randrange(len(other) + 1)
                changed[at:at] = other[start : start + draw.choice((4, 16, 64))]
            case _ if at < len(changed):
                changed[at] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _swap_lines(changed: bytearray, draw: random.Random) -> None:
    lines = bytes(changed).split(b"\r\n")
    one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    changed[:] = b"\r\n".join(lines)


def _put_line(changed: bytearray, piece: bytes, draw: random.Random) -> None:
    lines = bytes(changed).split(b"\r\n")
    lines.insert(draw.randrange(1, len(lines) + 1), piece.removesuffix(b"\r\n"))
    changed[:] = b"\r\n".join(lines)
