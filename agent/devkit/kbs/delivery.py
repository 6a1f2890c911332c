"""Answers on their way out: as they should be, or as a fault wants them."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Final

from agent.devkit.kbs.answers import JSON
from agent.devkit.kbs.faults import Fault, Kind
from agent.devkit.web import web

if TYPE_CHECKING:
    from agent.devkit.kbs.answers import Answer

OVERSIZED: Final = 128 * 1024 * 1024
"""More than any client should take (limits.KBS_MAX_RESOURCE is an eighth of it)."""

CHUNK: Final = 64 * 1024
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class BareResponse(web.Response):
    """A response without Content-Type, which aiohttp would otherwise make up."""


def _response(answer: Answer) -> web.Response:
    kind = BareResponse if answer.content_type is None else web.Response
    response = kind(status=answer.status, body=answer.body)
    if answer.content_type is not None:
        response.headers["Content-Type"] = answer.content_type
    if answer.cookie:
        response.headers["Set-Cookie"] = answer.cookie
    if answer.location:
        response.headers["Location"] = answer.location
    return response


async def deliver(request: web.Request, answer: Answer, fault: Fault | None) -> web.StreamResponse:
    """Send an answer."""
    match fault:
        case Fault(kind=Kind.DROP_COOKIE):
            return _response(answer.without_cookie())
        case Fault(kind=Kind.RESET | Kind.RESET_IN_HEAD | Kind.WRONG_LENGTH):
            return await _break_off(request, answer, fault)
        case Fault(kind=Kind.DRIP):
            return await _drip(request, answer, max(1, fault.size), fault.seconds)
        case Fault(kind=Kind.OVERSIZED):
            return await _oversized(request, fault.size)
        case _:
            return _response(answer)


async def _break_off(request: web.Request, answer: Answer, fault: Fault) -> web.StreamResponse:
    if fault.kind is Kind.RESET:
        return await _reset(request, answer, fault.size)
    if fault.kind is Kind.RESET_IN_HEAD:
        return _reset_in_head(request, answer)
    return _wrong_length(request, answer, fault.size)


async def _begin(request: web.Request, answer: Answer) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=_response(answer).headers)
    response.content_length = len(answer.body)
    await response.prepare(request)
    return response


async def _reset(request: web.Request, answer: Answer, size: int) -> web.StreamResponse:
    response: web.StreamResponse = web.Response()
    if size > 0:
        response = await _begin(request, answer)
        await response.write(answer.body[: min(size, len(answer.body) - 1)])
    _cut(request)
    return response


def _reset_in_head(request: web.Request, answer: Answer) -> web.StreamResponse:
    head = _raw_head(answer, len(answer.body))
    _send(request, head[: len(head) // 2])
    _cut(request)
    return web.Response()


def _wrong_length(request: web.Request, answer: Answer, off: int) -> web.StreamResponse:
    # In one piece and by hand: aiohttp would not send a body that is not as long as announced.
    _send(request, _raw_head(answer, max(0, len(answer.body) + off)) + answer.body)
    if request.transport is not None:
        request.transport.close()
    return web.Response()


def _raw_head(answer: Answer, length: int) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in _response(answer).headers.items())
    return f"HTTP/1.1 {answer.status} OK\r\nContent-Length: {length}\r\n{fields}\r\n".encode()


def _send(request: web.Request, data: bytes) -> None:
    if request.transport is not None:
        request.transport.write(data)


def _cut(request: web.Request) -> None:
    transport = request.transport
    if transport is not None:
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()


async def _drip(request: web.Request, answer: Answer, size: int, seconds: float) -> web.StreamResponse:
    response = await _begin(request, answer)
    for start in range(0, len(answer.body), size):
        await response.write(answer.body[start : start + size])
        await asyncio.sleep(seconds)
    return response


async def _oversized(request: web.Request, size: int) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": JSON})
    response.enable_chunked_encoding()
    await response.prepare(request)
    await response.write(b'"')
    size = size or OVERSIZED
    for start in range(0, size, CHUNK):
        await response.write(b"x" * min(CHUNK, size - start))
    await response.write(b'"')
    return response
