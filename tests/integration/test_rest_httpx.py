"""The REST role asked by httpx, a client that others use."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import httpx
import pytest

from agent.config import limits
from agent.serve.rest.listen import serve
from agent.serve.sockets import listen_unix
from tests.integration.test_rest import serving
from tests.unit.serve.rest import parts
from tests.unit.serve.rest.parts import KEY, Gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.integration

RESOURCE = "/cdh/resource/default/key/1"


def client(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False)


async def test_many_requests_go_over_one_connection() -> None:
    async with serving() as (_, port), client(port) as http:
        for _ in range(5):
            answer = await http.get(RESOURCE)
            assert (answer.status_code, answer.content) == (200, KEY)
        local = {
            connection["network_stream"].get_extra_info("client_addr")
            for connection in [(await http.get("/healthz")).extensions, (await http.get(RESOURCE)).extensions]
        }
    assert len(local) == 1


async def test_a_head_says_how_large_the_answer_is() -> None:
    async with serving() as (_, port), client(port) as http:
        answer = await http.head(RESOURCE)
        assert answer.headers["content-length"] == str(len(KEY))
        assert (await http.get(RESOURCE)).content == KEY


async def test_a_body_in_chunks_is_taken() -> None:
    async def sealed() -> AsyncIterator[bytes]:
        whole = json.dumps(["sealed.a.b.c"] * 3).encode()
        for at in range(0, len(whole), 7):
            yield whole[at : at + 7]

    async with serving() as (_, port), client(port) as http:
        answer = await http.post("/cdh/unseal", content=sealed())
        assert answer.status_code == 200
        assert len(answer.json()) == 3


async def test_a_body_that_is_too_large_is_refused_and_the_next_request_served() -> None:
    async with serving() as (_, port), client(port) as http:
        answer = await http.post("/cdh/unseal", content=b"x" * (limits.UNSEAL_MAX_BODY + 1))
        assert answer.status_code == 413
        assert (await http.get(RESOURCE)).content == KEY


async def test_large_answers_to_many_arrive_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    large = bytes(range(256)) * 16 * 1024
    monkeypatch.setattr(parts, "KEY", large)
    async with serving() as (_, port), client(port) as http:
        answers = await asyncio.gather(*(http.get(RESOURCE) for _ in range(6)))
    assert all(answer.content == large for answer in answers)


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "rest.sock"
    running = await serve(Gate().app, listen_unix(f"unix://{path}"))
    transport = httpx.AsyncHTTPTransport(uds=str(path))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            assert (await http.get(RESOURCE)).content == KEY
    finally:
        await running.cleanup()
