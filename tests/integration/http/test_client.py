"""The HTTP client over loopback, against servers that misbehave at the right moment."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import TYPE_CHECKING

import pytest

from agent.http.client.connection import Connection
from agent.http.client.exchange import HttpError, Repeat, Request, Trouble
from agent.http.url import Url
from tests.integration.http.servers import (
    LATE,
    OK,
    STALE,
    Seen,
    Talk,
    always,
    answering,
    client,
    get,
    reset,
    server,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agent.http.client.client import Client

pytestmark = pytest.mark.integration

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def http() -> AsyncIterator[Client]:
    made = client()
    yield made
    await made.close()


async def trouble(http: Client, request: Request) -> HttpError:
    with pytest.raises(HttpError) as caught:
        await asyncio.wait_for(http.send(request), 20)
    return caught.value


# --- what goes over the wire ----------------------------------------------------------------------
async def test_a_request_as_it_is_sent(http: Client) -> None:
    with server(always()) as there:
        url = there.url("/a%2Fb//c?x=%20&y")
        assert (await http.send(get(url))).body == b"ok"
        await http.send(Request("PUT", url, lambda _: 10, {"X-One": "1"}))
        await http.send(get(url, body=b"12345"))
    host = f"Host: localhost:{there.port}\r\nUser-Agent: test\r\n"
    assert there.requests == [
        f"GET /a%2Fb//c?x=%20&y HTTP/1.1\r\n{host}\r\n".encode(),
        f"PUT /a%2Fb//c?x=%20&y HTTP/1.1\r\n{host}X-One: 1\r\nContent-Length: 0\r\n\r\n".encode(),
        f"POST /a%2Fb//c?x=%20&y HTTP/1.1\r\n{host}Content-Length: 5\r\n\r\n12345".encode(),
    ]
    assert there.connections == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("X", "a\r\nY: b"), ("X", "a\n"), ("X", "\0"), ("X", "\u00e4"), ("X\r\n", "a"), ("X:", "a"), ("", "a")],
)
async def test_characters_that_are_not_sent(http: Client, name: str, value: str) -> None:
    with server(always()) as there:
        request = Request("GET", there.url(), lambda _: 10, {name: value})
        assert (await trouble(http, request)).trouble is Trouble.REFUSED
        for method in ("get", "GET /x HTTP/1.1\r\nX:", ""):
            refused = Request(method, there.url(), lambda _: 10)
            assert (await trouble(http, refused)).trouble is Trouble.REFUSED
    assert there.connections == 0


async def test_the_steps_of_an_exchange(http: Client) -> None:
    seen = Seen()
    with server(answering(OK, OK), always()) as there:
        for _ in range(2):
            await http.send(get(there.url()), seen)
        await until(lambda: not any(each.open for idle in http._pool._idle.values() for each in idle))
        await http.send(get(there.url()), seen)
    new = ["connect", "name", "connect", "answer"]
    assert seen.steps == [*new, "answer kept", *new]


# --- a kept connection on which the server has spoken, or ended ---------------------------------------
class Cue:
    """When the server acts, and that it has."""

    def __init__(self, act: Callable[[Talk], None]) -> None:
        self._act = act
        self._go, self._done = threading.Event(), threading.Event()

    def script(self, talk: Talk) -> None:
        talk.read()
        talk.write(OK)
        self._go.wait(20)
        self._act(talk)
        self._done.set()
        talk.until_closed()

    def now(self) -> None:
        """Act; meanwhile the loop stands still."""
        self._go.set()
        assert self._done.wait(20)


ACTS: dict[str, Callable[[Talk], None]] = {
    "408 of a balancer": lambda talk: talk.write(LATE),
    "an answer nobody asked for": lambda talk: talk.write(STALE),
    "one byte": lambda talk: talk.write(b"\r"),
    "the end": lambda talk: talk.peer.shutdown(1),
    "a reset": lambda talk: reset(talk.peer),
}


@pytest.mark.parametrize("repeat", [Repeat.KEPT, Repeat.NEVER])
@pytest.mark.parametrize("act", ACTS)
async def test_what_came_unseen_is_found_before_the_connection_is_used(
    http: Client, act: str, repeat: Repeat
) -> None:
    cue = Cue(ACTS[act])
    with server(cue.script, always(OK)) as there:
        await http.send(get(there.url()))
        cue.now()
        response = await http.send(get(there.url("/2"), repeat=repeat, body=b"x"))
        assert response.body == b"ok"
        assert there.connections == 2
        assert len(there.requests) == 2  # the second one went to the second connection only


@pytest.mark.parametrize("act", ACTS)
async def test_what_is_seen_while_idle_closes_the_connection(http: Client, act: str) -> None:
    cue = Cue(ACTS[act])
    with server(cue.script, always(OK)) as there:
        await http.send(get(there.url()))
        (idle,) = next(iter(http._pool._idle.values()))
        cue.now()
        await until(lambda: not idle.open)
        assert (await http.send(get(there.url(), repeat=Repeat.NEVER))).body == b"ok"
        assert there.connections == 2


@pytest.mark.parametrize("size", [1, 100_000])
async def test_nothing_is_sent_when_the_kernel_takes_nothing(
    http: Client, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the write: what forbids a repetition goes out all the same, since nothing left."""
    cue = Cue(ACTS["a reset"])
    with server(cue.script, always(OK)) as there:
        await http.send(get(there.url()))
        cue.now()
        monkeypatch.setattr(Connection, "untouched", lambda _: True)
        assert (await http.send(get(there.url(), repeat=Repeat.NEVER, body=b"x" * size))).body == b"ok"
        assert len(there.requests) == 2


# --- second tries ---------------------------------------------------------------------------------
async def test_a_408_while_ours_was_on_its_way(http: Client) -> None:
    with server(answering(OK, LATE), always()) as there:
        await http.send(get(there.url()))
        assert (await http.send(get(there.url("/2")))).status == 200
        assert there.connections == 2


async def test_a_408_on_a_new_connection_is_the_answer(http: Client) -> None:
    with server(always(LATE)) as there:
        assert (await http.send(get(there.url()))).status == 408
        assert len(there.requests) == 1


@pytest.mark.parametrize("status", [421, 425])
async def test_misdirected_or_too_early(http: Client, status: int) -> None:
    refusal = b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status
    with server(answering(refusal), always()) as there:
        assert (await http.send(get(there.url()))).status == 200
        assert there.connections == 2
    with server(always(refusal)) as there:
        assert (await http.send(get(there.url()))).status == status
        assert len(there.requests) == 2
        assert (await http.send(get(there.url(), repeat=Repeat.NEVER))).status == status
        assert len(there.requests) == 3


@pytest.mark.parametrize(("repeat", "sent"), [(Repeat.NEVER, 2), (Repeat.KEPT, 3), (Repeat.LOST, 3)])
@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_kept_connection_that_ends_without_an_answer(
    http: Client, repeat: Repeat, sent: int, how: str
) -> None:
    def dies(talk: Talk) -> None:
        talk.read()
        talk.write(OK)
        talk.read()
        if how == "reset":
            reset(talk.peer)

    with server(dies, always()) as there:
        await http.send(get(there.url()))
        request = get(there.url(), repeat=repeat, body=b"1")
        if repeat is Repeat.NEVER:
            assert (await trouble(http, request)).trouble is Trouble.SILENT
        else:
            assert (await http.send(request)).body == b"ok"
        assert len(there.requests) == sent


async def test_a_second_try_goes_to_a_new_connection(http: Client) -> None:
    """All kept ones may be dead."""
    gate = threading.Barrier(2)

    def dies(talk: Talk) -> None:
        talk.read()
        gate.wait(20)
        talk.write(OK)
        talk.read()

    with server(dies, dies, always()) as there:
        await asyncio.gather(*(http.send(get(there.url())) for _ in range(2)))
        assert (await http.send(get(there.url()))).body == b"ok"
        assert there.connections == 3
        assert len(there.requests) == 4


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"H"])
async def test_after_the_first_byte_of_an_answer_nothing_is_repeated(http: Client, start: bytes) -> None:
    with server(answering(OK, start), always()) as there:
        await http.send(get(there.url()))
        error = await trouble(http, get(there.url(), repeat=Repeat.LOST))
        assert error.trouble is Trouble.BROKEN
        assert len(there.requests) == 2


# --- one answer per request -------------------------------------------------------------------------
@pytest.mark.parametrize(
    "answer",
    [
        OK + STALE,
        OK + b"\r\n",
        OK + b"HTTP",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n",
    ],
)
async def test_connections_that_are_not_used_again(http: Client, answer: bytes) -> None:
    with server(always(answer), always()) as there:
        await http.send(get(there.url()))
        assert (await http.send(get(there.url()))).body == b"ok"
        assert there.connections == 2


async def test_an_answer_that_ends_with_the_connection(http: Client) -> None:
    with server(answering(b"HTTP/1.1 200 OK\r\n\r\nto the end"), always()) as there:
        assert (await http.send(get(there.url()))).body == b"to the end"
        assert (await http.send(get(there.url()))).body == b"ok"


async def test_an_answer_that_was_to_end_with_the_connection_and_is_reset(http: Client) -> None:
    gone = threading.Event()

    def script(talk: Talk) -> None:
        talk.read()
        talk.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        gone.wait(20)
        reset(talk.peer)

    def wanted(_: object) -> int:
        gone.set()
        return 100

    with server(script) as there:
        assert (await trouble(http, get(there.url(), wanted=wanted))).trouble is Trouble.BROKEN


async def test_an_answer_before_the_question(http: Client) -> None:
    spoken = threading.Event()

    def early(talk: Talk) -> None:
        talk.write(STALE)
        spoken.set()
        talk.until_closed()

    class Waits(Seen):
        def reached(self, step: object, *, kept: bool = False) -> None:
            if getattr(step, "value", "") == "answer":
                spoken.wait(20)

    with server(early) as there:
        with pytest.raises(HttpError) as caught:
            await http.send(get(there.url()), Waits())
        assert caught.value.trouble is Trouble.FRAMING
        assert there.requests == []


async def test_an_answer_before_all_was_sent_is_an_answer_but_the_connection_is_not_used_again(
    http: Client,
) -> None:
    read = threading.Event()

    def impatient(talk: Talk) -> None:
        talk.peer.recv(100)
        talk.write(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
        read.wait(20)

    with server(impatient, always()) as there:
        response = await http.send(get(there.url(), body=b"x" * 20_000_000, repeat=Repeat.NEVER))
        assert (response.status, response.body) == (413, b"no")
        assert not http._pool._idle
        read.set()
        assert (await http.send(get(there.url()))).body == b"ok"
        assert there.connections == 2


# --- bounds ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" * 6 + OK,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 40 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 9000 + b"\r\nx\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlonger than that",
        CHUNKED + b"1\r\nx\r\n0\r\n\r\ny",
    ],
)
async def test_answers_that_are_none(http: Client, answer: bytes) -> None:
    with server(always(answer)) as there:
        assert (await trouble(http, get(there.url()))).trouble is Trouble.FRAMING
        assert len(there.requests) == 1


async def test_interim_answers_and_trailers(http: Client) -> None:
    chunked = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nX: y\r\n\r\n"
    )
    with server(always(b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Go\r\n\r\n" + chunked)) as there:
        for _ in range(3):
            response = await http.send(get(there.url()))
            assert response.body == b"ok"
            assert "x" not in response.head.headers
        assert there.connections == 1


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 11\r\n\r\n", b"\r\n", b"Transfer-Encoding: chunked\r\n\r\nb\r\n"],
)
async def test_more_than_wanted_is_not_read(http: Client, framing: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\n" + framing + b"x" * 11
    with server(answering(answer), always()) as there:
        response = await http.send(get(there.url(), most=10))
        assert (response.status, response.body) == (200, None)
        assert (await http.send(get(there.url(), most=10))).body == b"ok"
        assert there.connections == 2


async def test_a_large_body_within_its_bound(http: Client) -> None:
    body = b"0123456789abcdef" * 500_000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with server(always(answer)) as there:
        for _ in range(2):
            assert (await http.send(get(there.url(), most=len(body)))).body == body
        assert there.connections == 1


# --- ends -----------------------------------------------------------------------------------------
async def test_a_caller_that_goes_away_takes_the_connection_with_it(http: Client) -> None:
    closed = threading.Event()

    def silent(talk: Talk) -> None:
        talk.read()
        talk.until_closed()
        closed.set()

    with server(silent, always()) as there:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await http.send(get(there.url()))
        await until(closed.is_set)
        assert (await http.send(get(there.url()))).body == b"ok"


async def test_closing_ends_what_is_under_way(http: Client) -> None:
    with server(lambda talk: talk.until_closed()) as there:
        asking = asyncio.ensure_future(http.send(get(there.url(), repeat=Repeat.LOST)))
        await until(lambda: bool(http._busy))
        await http.close()
        with pytest.raises(HttpError) as caught:
            await asking
        assert caught.value.trouble is Trouble.CLOSED
        assert (await trouble(http, get(there.url()))).trouble is Trouble.CLOSED
        assert there.connections == 1


async def test_connecting_has_a_limit_of_its_own(http: Client) -> None:
    async def never(*_: object) -> object:
        await asyncio.Event().wait()
        raise AssertionError

    http._resolver._inner.resolve = never  # type: ignore[method-assign,assignment]
    request = get(Url.parse("http://kbs.example"), connect=0.05)
    assert (await trouble(http, request)).trouble is Trouble.TIME


async def test_nothing_is_left_behind(http: Client) -> None:
    """Descriptors, tasks, and cycles that hold answers."""
    with server(always()) as there:
        for _ in range(5):
            await http.send(get(there.url()))
        await http.close()
        await asyncio.sleep(0)
        gc.collect()
        assert not [each for each in gc.get_objects() if isinstance(each, Connection) and each.open]
        assert [each for each in asyncio.all_tasks() if each is not asyncio.current_task()] == []
