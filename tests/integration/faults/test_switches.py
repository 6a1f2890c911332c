"""The broker's switches as a client without our code sees them: bytes on a socket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from agent.devkit.kbs import DevKbs, Fault, Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.integration

REQUEST = b'{"version":"0.4.0","tee":"sample","extra-params":""}'


@pytest.fixture
async def kbs() -> AsyncIterator[DevKbs]:
    async with DevKbs() as running:
        yield running


async def connect(kbs: DevKbs) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", kbs.port)
    writer.write(
        b"POST /kbs/v0/auth HTTP/1.1\r\nHost: kbs\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(REQUEST) + REQUEST
    )
    return reader, writer


async def all_of(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """What came, and whether the connection was reset after it."""
    data = b""
    try:
        while piece := await reader.read(65536):
            data += piece
    except ConnectionResetError:
        return data, True
    return data, False


def parts(data: bytes) -> tuple[int, bytes]:
    """Announced length and what followed the head."""
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length: "))
    return int(length.split()[1]), body


async def test_a_black_hole_takes_a_request_and_stop_ends_it(kbs: DevKbs) -> None:
    arrived = asyncio.Event()
    kbs.faults.on("auth", Fault(Kind.BLACK_HOLE, arrived=arrived))
    reader, writer = await connect(kbs)
    await asyncio.wait_for(arrived.wait(), 10)
    await kbs.stop()
    assert (await all_of(reader))[0] == b""
    writer.close()


async def test_a_reset_within_the_head(kbs: DevKbs) -> None:
    kbs.faults.on("auth", Fault(Kind.RESET_IN_HEAD))
    reader, writer = await connect(kbs)
    data, reset = await all_of(reader)
    assert reset
    assert b"\r\n\r\n" not in data
    writer.close()


@pytest.mark.parametrize("off", [-9, 9])
async def test_a_length_that_is_wrong(kbs: DevKbs, off: int) -> None:
    kbs.faults.on("auth", Fault(Kind.WRONG_LENGTH, size=off))
    reader, writer = await connect(kbs)
    data, reset = await all_of(reader)
    announced, body = parts(data)
    assert not reset
    assert announced == len(body) + off
    assert b'"nonce"' in body
    writer.close()
