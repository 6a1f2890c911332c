"""A connection's states, without sockets."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from agent.config import limits
from agent.http.budget import Budget, Holder
from agent.http.server.exchange import Answer, BodyError, Loss
from tests.unit.http.server.fakes import TIMES, House, Transport

if TYPE_CHECKING:
    from agent.http.messages import RequestHead
    from agent.http.server.exchange import ReadBody

POST = b"POST /p HTTP/1.1\r\nContent-Length: 5\r\n\r\n"


def get(target: bytes = b"/a", *lines: bytes) -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def bodies(transport: Transport) -> list[bytes]:
    """The bodies of what was answered; each answer is one byte string behind its head."""
    parts = bytes(transport.taken).split(b"HTTP/1.1 ")[1:]
    return [part.partition(b"\r\n\r\n")[2] for part in parts]


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Closed(Budget):
    def hold(self, holder: Holder, size: int) -> bool:
        raise AssertionError("nothing of this is worth an entry")


async def test_an_answer_that_is_there_is_written_without_a_task() -> None:
    house = House(budget=Closed(1 << 20, 0))
    connection, transport = house.connect()
    before = asyncio.all_tasks()
    house.send(connection, get(b"/x"))
    assert bodies(transport) == [b"/x"]
    assert asyncio.all_tasks() == before
    assert not transport.is_closing()


async def test_the_kernel_is_told_to_keep_little() -> None:
    # T-HTTP-19
    _, transport = House().connect()
    assert transport.options == [(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.HTTP_SEND_BUFFER)]


async def test_requests_in_pieces_and_in_one_piece() -> None:
    house = House()
    connection, transport = house.connect()
    for byte in get(b"/a") + get(b"/b"):
        house.send(connection, bytes([byte]))
    house.send(connection, get(b"/c") + get(b"/d"))
    assert bodies(transport) == [b"/a", b"/b", b"/c", b"/d"]


async def test_nothing_is_read_while_a_request_is_under_way_and_more_is_there() -> None:
    house = House()
    release = asyncio.Event()

    async def later(head: RequestHead, _: ReadBody) -> Answer:
        await release.wait()
        return Answer(200, head.target.encode())

    house.application.how = later
    connection, transport = house.connect()
    house.send(connection, get(b"/a"))
    assert transport.is_reading()  # so that its end is seen
    house.send(connection, get(b"/b") + get(b"/c"))
    assert not transport.is_reading()
    assert len(house.application.heads) == 1
    release.set()
    await turns(10)
    assert bodies(transport) == [b"/a", b"/b", b"/c"]
    assert transport.is_reading()


async def test_pipelined_requests_share_the_loop() -> None:
    # T-HTTP-17
    house = House()
    connection, transport = house.connect()
    house.send(connection, get() * (limits.HTTP_PER_TURN + 1))
    assert len(bodies(transport)) == limits.HTTP_PER_TURN
    assert not transport.is_reading()
    await turns(2)
    assert len(bodies(transport)) == limits.HTTP_PER_TURN + 1
    assert transport.is_reading()


async def test_what_is_answered_already_is_written_when_the_client_sends_no_more() -> None:
    house = House()
    connection, transport = house.connect()
    house.send(connection, get() * (limits.HTTP_PER_TURN + 1))
    assert connection.eof_received()
    await turns(2)
    assert len(bodies(transport)) == limits.HTTP_PER_TURN + 1
    assert transport.is_closing()


async def test_a_client_that_goes_away_cancels_its_request() -> None:
    house = House()
    cancelled = asyncio.Event()

    async def later(_: RequestHead, __: ReadBody) -> Answer:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return Answer(200, b"")

    house.application.how = later
    connection, transport = house.connect()
    house.send(connection, get())
    await turns(1)
    connection.eof_received()
    await turns()
    assert cancelled.is_set()
    assert transport.is_closing()
    assert len(house.server.roster) == 0


async def test_an_answer_of_the_same_turn_reaches_a_client_that_has_ended_its_side() -> None:
    house = House()

    async def soon(_: RequestHead, __: ReadBody) -> Answer:
        return Answer(200, b"here")

    house.application.how = soon
    connection, transport = house.connect()
    house.send(connection, get())
    assert connection.eof_received()
    await turns(2)
    assert bodies(transport) == [b"here"]
    assert transport.is_closing()


async def test_a_large_answer_goes_in_pieces_and_is_in_the_account_until_it_is_out() -> None:
    house = House()
    body = bytes(3 * limits.HTTP_PIECE)
    house.application.how = lambda _, __: Answer(200, body)
    connection, transport = house.connect(room=1000)
    house.send(connection, get() + get())
    assert house.budget.used >= len(body) - limits.HTTP_UNCOUNTED
    while len(house.application.heads) == 1:
        assert len(transport.waiting) <= limits.HTTP_PIECE
        transport.drain(limits.HTTP_PIECE // 2)
    assert bytes(transport.taken).endswith(body)
    connection.connection_lost(None)
    assert house.budget.used == 0


async def test_a_reader_that_stops_loses_its_connection() -> None:
    # T-HTTP-15, T-HTTP-19
    house = House()
    house.application.how = lambda _, __: Answer(200, bytes(100_000))
    connection, transport = house.connect(room=1000)
    house.send(connection, get())
    connection.expire(house.time + TIMES.write_grace)
    assert not transport.is_closing()
    connection.expire(house.time + TIMES.write_grace + 100)
    assert transport.aborted
    assert house.application.losses == [Loss.SLOW_READER]
    assert house.budget.used == 0
    assert socket.SO_LINGER in [option for _, option, _ in transport.options]


async def test_a_reader_that_goes_on_keeps_it() -> None:
    house = House()
    house.application.how = lambda _, __: Answer(200, bytes(200_000))
    connection, transport = house.connect(room=1000)
    house.send(connection, get())
    transport.drain(limits.HTTP_PIECE)
    connection.expire(house.time + TIMES.write_grace + 50)
    assert not transport.is_closing()


async def test_a_head_has_seconds_from_its_first_byte() -> None:
    # T-HTTP-13
    house = House()
    connection, transport = house.connect()
    house.time += 50
    house.send(connection, b"G")
    connection.expire(house.time + 4.9)
    house.send(connection, b"E")
    connection.expire(house.time + 4.9)
    connection.expire(house.time + 5)
    assert transport.is_closing()
    assert house.application.losses == [Loss.SLOW_HEAD]


async def test_an_idle_connection_has_its_time_and_an_empty_line_is_no_head() -> None:
    house = House()
    connection, transport = house.connect()
    house.send(connection, b"\r\n")
    connection.expire(house.time + 70)
    assert not transport.is_closing()
    connection.expire(house.time + 75)
    assert transport.is_closing()
    assert house.application.losses == []


async def read_it(_: RequestHead, body: ReadBody) -> Answer:
    try:
        return Answer(200, await body(10_000))
    except BodyError as error:
        return Answer(400, error.refusal.name.encode())


async def test_a_body_is_waited_for() -> None:
    house = House()
    house.application.how = read_it
    connection, transport = house.connect()
    house.send(connection, POST + b"he")
    await turns()
    house.send(connection, b"llo" + get())
    await turns()
    assert bodies(transport) == [b"hello", b""]


async def test_a_body_has_a_least_rate() -> None:
    # T-HTTP-14
    house = House()
    house.application.how = read_it
    connection, transport = house.connect()
    house.send(connection, POST + b"he")
    await turns()
    connection.expire(house.time + 5)
    await turns()
    assert not transport.taken
    connection.expire(house.time + 5.01)
    await turns()
    assert bodies(transport) == [b"TOO_SLOW"]
    assert transport.ended
    assert house.application.losses == [Loss.SLOW_BODY]


@pytest.mark.parametrize(
    ("head", "rest", "refusal"),
    [
        (b"Content-Length: 10001", b"", b"BODY_TOO_LARGE"),
        (b"Transfer-Encoding: chunked", b"2711\r\n" + bytes(10_001), b"BODY_TOO_LARGE"),
        (b"Transfer-Encoding: chunked", b"zz\r\n\r\n", b"BODY_NOT_FRAMED"),
    ],
)
async def test_a_body_that_will_not_do_is_refused(head: bytes, rest: bytes, refusal: bytes) -> None:
    # T-REST-21
    house = House()
    house.application.how = read_it
    connection, transport = house.connect()
    house.send(connection, b"POST / HTTP/1.1\r\n" + head + b"\r\n\r\n")
    await turns()
    if rest:
        house.send(connection, rest)
        await turns()
    assert bodies(transport) == [refusal]
    if rest:
        house.send(connection, get())
        await turns()
        assert len(bodies(transport)) == 1


async def test_continue_is_said_when_the_body_is_wanted() -> None:
    house = House()
    connection, transport = house.connect()
    expecting = POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
    house.application.how = read_it
    house.send(connection, expecting)
    await turns()
    assert bytes(transport.taken) == b"HTTP/1.1 100 Continue\r\n\r\n"
    house.send(connection, b"hello")
    await turns()
    assert bodies(transport)[-1] == b"hello"
    assert not transport.is_closing()


async def test_an_answer_in_place_of_continue_ends_the_connection() -> None:
    house = House()
    connection, transport = house.connect()
    house.send(connection, POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    assert b"100 Continue" not in transport.taken
    assert b"Connection: close" in transport.taken
    house.send(connection, get())
    assert len(house.application.heads) == 1


async def test_an_unwanted_body_is_dropped_and_is_no_request() -> None:
    house = House()
    connection, transport = house.connect()
    house.send(connection, POST + b"GE")
    house.send(connection, b"T /" + get(b"/b"))
    assert bodies(transport) == [b"/p", b"/b"]


async def test_an_unwanted_body_that_does_not_come_ends_the_connection() -> None:
    house = House()
    connection, transport = house.connect()
    house.send(connection, POST)
    connection.expire(house.time + 0.9)
    assert not transport.is_closing()
    connection.expire(house.time + 1)
    assert transport.is_closing()


async def test_behind_what_is_not_http_nothing_is_looked_at() -> None:
    # T-HTTP-16
    house = House()
    connection, transport = house.connect()
    house.send(connection, b"\x00nonsense\r\n\r\n" + get())
    assert bodies(transport) == [b"NOT_HTTP"]
    assert transport.ended
    assert not transport.is_closing()  # a reset could overtake the answer
    house.send(connection, get())
    assert house.application.heads == []
    connection.expire(house.time + TIMES.linger)
    assert transport.is_closing()


async def test_behind_a_body_that_is_not_framed_nothing_is_looked_at() -> None:
    house = House()
    connection, transport = house.connect()
    bad = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n"
    house.send(connection, bad + get())
    house.send(connection, get())
    assert bodies(transport) == [b"NOT_HTTP"]
    assert transport.ended
    assert house.application.heads == []


async def test_close_is_heard_and_said() -> None:
    house = House()
    connection, transport = house.connect()
    house.send(connection, get(b"/a", b"Connection: close"))
    assert b"\r\nConnection: close\r\n" in transport.taken
    assert transport.is_closing()


async def test_http_1_0_is_kept_when_it_asks() -> None:
    house = House()
    connection, transport = house.connect()
    house.send(connection, b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert b"\r\nConnection: keep-alive\r\n" in transport.taken
    house.send(connection, b"GET /a HTTP/1.0\r\n\r\n")
    assert transport.is_closing()


async def test_a_defect_is_answered() -> None:
    house = House()

    def broken(_: RequestHead, __: ReadBody) -> Answer:
        raise KeyError("x")

    async def later(head: RequestHead, body: ReadBody) -> Answer:
        return broken(head, body)

    for how in (broken, later):
        house.application.how = how
        connection, transport = house.connect()
        house.send(connection, get())
        await turns()
        assert bodies(transport) == [b"KeyError"]


async def test_unfinished_requests_are_in_the_account() -> None:
    # T-HTTP-20
    house = House()
    house.application.how = read_it
    connection, _ = house.connect()
    house.send(connection, b"GET / HTTP/1.1\r\nA: " + b"b" * 2000)
    assert 900 < house.budget.used < 1100
    other, _ = house.connect()
    house.send(other, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" + b"x" * 1500)
    assert house.budget.used > 1400
    connection.connection_lost(None)
    other.connection_lost(None)
    assert house.budget.used == 0


async def test_a_full_account_costs_the_one_without_progress() -> None:
    # T-HTTP-20
    house = House(budget=Budget(5000, 0))
    raw = b"GET / HTTP/1.1\r\nA: " + b"b" * 4000
    first, gone = house.connect()
    house.send(first, raw)
    second, kept = house.connect()
    house.send(second, raw)
    assert gone.aborted
    assert not kept.is_closing()
    assert house.application.losses == [Loss.EVICTED]


async def test_without_room_a_request_is_refused_and_small_ones_are_served() -> None:
    # T-HTTP-20
    house = House(budget=Budget(100, 0))
    connection, transport = house.connect()
    house.send(connection, b"GET / HTTP/1.1\r\nA: " + b"b" * 3000)
    assert bodies(transport) == [b"NO_ROOM"]
    assert house.application.losses == [Loss.NO_ROOM]
    small, answered = house.connect()
    house.send(small, get()[:-3])
    house.send(small, get()[-3:])
    assert bodies(answered) == [b"/a"]


async def test_without_room_a_body_is_refused() -> None:
    house = House(budget=Budget(100, 0))
    house.application.how = read_it
    connection, transport = house.connect()
    house.send(connection, b"POST / HTTP/1.1\r\nContent-Length: 5000\r\n\r\n")
    await turns()
    house.send(connection, bytes(2000))
    await turns()
    assert bodies(transport) == [b"NO_ROOM"]
    assert transport.ended
    assert house.budget.used == 0


async def test_when_all_places_are_taken_the_oldest_goes_or_the_newcomer() -> None:
    # T-HTTP-12, T-REST-19
    house = House(most=2)
    connection, busy = house.connect()
    house.application.how = read_it
    house.send(connection, POST)
    await turns()
    _, silent = house.connect()
    _, newcomer = house.connect()
    assert newcomer.is_closing()  # all are younger than a moment
    house.time += 1
    house.send(connection, b"he")
    _, newcomer = house.connect()
    assert silent.is_closing()
    assert not newcomer.is_closing()
    assert not busy.is_closing()
    assert house.application.losses == [Loss.FULL, Loss.REPLACED]


async def test_few_connections_may_wait_for_their_client() -> None:
    # T-HTTP-22
    house = House(most=10 * limits.HTTP_WAITING)
    first = [house.connect()[1] for _ in range(limits.HTTP_WAITING)]
    house.time += 1
    second = [house.connect()[1] for _ in range(5)]
    assert [transport.is_closing() for transport in first[:6]] == [True] * 5 + [False]
    assert not any(transport.is_closing() for transport in second)


async def test_the_end_of_a_server_lets_requests_finish() -> None:
    house = House()
    release = asyncio.Event()

    async def later(_: RequestHead, __: ReadBody) -> Answer:
        await release.wait()
        return Answer(200, b"done")

    house.application.how = later
    connection, transport = house.connect()
    _, idle = house.connect()
    house.send(connection, get())
    stopping = asyncio.create_task(house.server.stop(10))
    await turns()
    assert idle.is_closing()
    assert not transport.is_closing()
    release.set()
    await turns()
    assert bodies(transport) == [b"done"]
    assert transport.is_closing()
    for lost in tuple(house.connections):
        lost.connection_lost(None)
    await stopping
