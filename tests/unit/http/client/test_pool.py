from __future__ import annotations

import pytest

from agent.config import limits
from agent.devkit.clock import FakeClock
from agent.http.client.pool import Key, Pool
from agent.http.tls import Trust

KEY = Key(("http", "kbs", 80), None)


class Fake:
    def __init__(self) -> None:
        self.since = 0.0
        self.open = True
        self.clean = True
        self.aborted = False

    def untouched(self) -> bool:
        return self.clean

    def abort(self) -> None:
        self.open = False
        self.aborted = True


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def pool(clock: FakeClock) -> Pool[Fake]:
    return Pool(3, clock.boot)


async def test_the_last_one_used_is_used_next(pool: Pool[Fake]) -> None:
    first, second = Fake(), Fake()
    pool.put(KEY, first)
    pool.put(KEY, second)
    assert [pool.take(KEY) for _ in range(3)] == [second, first, None]


async def test_only_alike_connections_are_taken(pool: Pool[Fake]) -> None:
    ours = Trust()
    pool.put(Key(("https", "kbs", 443), ours), Fake())
    assert pool.take(KEY) is None
    assert pool.take(Key(("https", "kbs", 443), Trust())) is None
    assert pool.take(Key(("https", "kbs", 444), ours)) is None
    assert pool.take(Key(("https", "kbs", 443), ours)) is not None


async def test_one_with_something_on_it_is_closed_instead_of_used(pool: Pool[Fake]) -> None:
    clean, spoken = Fake(), Fake()
    pool.put(KEY, clean)
    pool.put(KEY, spoken)
    spoken.clean = False
    assert pool.take(KEY) is clean
    assert spoken.aborted


async def test_one_that_ended_is_not_used(pool: Pool[Fake]) -> None:
    ended = Fake()
    pool.put(KEY, ended)
    ended.open = False
    assert pool.take(KEY) is None
    pool.put(KEY, ended)
    assert pool.take(KEY) is None


async def test_an_old_one_is_not_used(pool: Pool[Fake], clock: FakeClock) -> None:
    old = Fake()
    pool.put(KEY, old)
    clock.advance(limits.HTTP_IDLE)
    assert pool.take(KEY) is None
    assert old.aborted


async def test_the_oldest_goes_when_there_are_too_many(pool: Pool[Fake], clock: FakeClock) -> None:
    many = [Fake() for _ in range(4)]
    for number, each in enumerate(many):
        pool.put(Key(("http", "kbs", number % 2 + 1), None), each)
        clock.advance(1)
    assert [each.aborted for each in many] == [True, False, False, False]
    pool.put(KEY, Fake())
    assert many[1].aborted


async def test_sweeping_closes_what_is_old_or_ended(pool: Pool[Fake], clock: FakeClock) -> None:
    old, ended, good = Fake(), Fake(), Fake()
    pool.put(KEY, old)
    clock.advance(limits.HTTP_IDLE - 1)
    pool.put(KEY, ended)
    pool.put(KEY, good)
    ended.open = False
    clock.advance(1)
    pool.sweep()
    assert (old.aborted, good.aborted) == (True, False)
    assert [pool.take(KEY), pool.take(KEY)] == [good, None]


async def test_closing_closes_all(pool: Pool[Fake]) -> None:
    held = Fake()
    pool.put(KEY, held)
    pool.close()
    pool.close()
    assert held.aborted
    assert pool.take(KEY) is None
