"""aiohttp's readers (in C, on llhttp) with the bounds of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError, InvalidURLError
from aiohttp.http_parser import HttpRequestParser, HttpResponseParser

from tests.framing.compare import Seen
from tests.framing.feeding import BOUNDS, one_by_one

if TYPE_CHECKING:
    import asyncio

_BUFFER: Final = 1024 * 1024
_NO_FRAMING: Final = (
    "Data after `Connection: close`",  # we drop them without a look
    "'Host' header",  # judged above our reader, by serve/rest/guard; ours drops trailers
)
"""What its complaints about other things than framing say."""


def requests(data: bytes, loop: asyncio.AbstractEventLoop) -> Seen:
    """What its server reads."""
    return _read(HttpRequestParser(BaseProtocol(loop), loop, _BUFFER, **_bounds()), data)


def answers(data: bytes, loop: asyncio.AbstractEventLoop) -> Seen:
    """What its client reads, before the connection ends."""
    parser = HttpResponseParser(BaseProtocol(loop), loop, _BUFFER, read_until_eof=True, **_bounds())
    return _read(parser, data)


def _bounds() -> dict[str, Any]:
    return {
        "max_line_size": BOUNDS.start,
        "max_field_size": BOUNDS.head,
        "max_headers": BOUNDS.fields,
        "auto_decompress": False,
    }


def _read(parser: Any, data: bytes) -> Seen:
    # Byte by byte, so that messages ahead of a complaint are not lost.
    found: list[tuple[Any, Any]] = []
    end: Any = "open"
    try:
        for byte in one_by_one(data):
            messages, upgraded, _ = parser.feed_data(byte)
            found += messages
            if upgraded:
                end = "closed"
                break
        else:
            parser.feed_eof()
    except InvalidURLError:  # what the target names is judged above our reader, by serve/rest/target
        end = "closed"
    except HttpProcessingError as error:
        end = "closed" if any(text in error.message for text in _NO_FRAMING) else "refused"
    return Seen(tuple(_whole(found)), end)


def _whole(found: list[tuple[Any, Any]]) -> list[tuple[str, bytes]]:
    whole = []
    for message, body in found:
        if isinstance(getattr(message, "code", None), int) and message.code < 200:
            continue
        if not body.is_eof() or body.exception() is not None:
            break
        held = b"".join(getattr(body, "_buffer", ()))  # an empty one has none
        whole.append((_start(message), held))
    return whole


def _start(message: Any) -> str:
    return str(message.code) if hasattr(message, "code") else f"{message.method} {message.path}"
