"""Resources: one fetch for everybody who waits for it, and kept as the rules say."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import pytest

from agent.clock import Deadline
from agent.config import limits
from agent.config.model import Cache, CacheRule
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.hub.cache import ResourceCache
from agent.hub.resources import Resources
from agent.observe.metrics import Metrics
from agent.roles import Freshness
from agent.secret import Secret
from tests.unit.hub.support import StoredGetter, soon

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.hub.kms.base import Getter

URI = "kbs:///default/key/1"
OTHER = "kbs:///default/key/2"

NEGATIVE = 3.0  # seconds a refusal is remembered here; by default none is


class Gate(StoredGetter):
    """A backend that answers when the test opens it."""

    def __init__(self) -> None:
        super().__init__({URI: b"one", OTHER: b"two"})
        self.open = asyncio.Event()
        self.entered = asyncio.Event()
        self.deadlines: list[Deadline] = []

    async def get(self, name: str, annotations: Mapping[str, object], deadline: Deadline) -> Secret:
        self.deadlines.append(deadline)
        self.entered.set()
        await self.open.wait()
        return await super().get(name, annotations, deadline)


def looked_up(metrics: Metrics, result: str) -> float:
    return metrics.registry.get_sample_value("coco_resource_cache_requests_total", {"result": result}) or 0.0


async def test_callers_join_one_fetch_whatever_they_call_it() -> None:
    gate, metrics = Gate(), Metrics()
    resources = Resources(lambda: gate, metrics)
    spellings = (URI, "kbs://host/default/key/1", "KBS+resource:///default/key/1")
    waiting = [asyncio.create_task(resources.get(uri, soon())) for uri in spellings]
    other = asyncio.create_task(resources.get(OTHER, soon()))
    await gate.entered.wait()
    gate.open.set()
    assert await asyncio.gather(*waiting) == [Secret(b"one")] * 3
    assert await other == Secret(b"two")
    assert sorted(gate.asked) == [URI, OTHER]
    assert (looked_up(metrics, "miss"), looked_up(metrics, "joined")) == (2, 2)


async def test_a_caller_that_joins_hurries_the_fetch() -> None:
    gate, hurried = Gate(), []
    resources = Resources(lambda: gate, Metrics(), hurry=lambda: hurried.append(len(gate.deadlines)))
    first = asyncio.create_task(resources.get(URI, soon()))
    other = asyncio.create_task(resources.get(OTHER, soon()))
    await gate.entered.wait()
    assert hurried == []
    second = asyncio.create_task(resources.get(URI, soon()))
    await asyncio.sleep(0)
    assert hurried == [2]
    gate.open.set()
    await asyncio.gather(first, second, other)


async def test_wiping_ones_own_secret_leaves_the_others_theirs() -> None:
    gate = Gate()
    resources = Resources(lambda: gate, Metrics())
    waiting = [asyncio.create_task(resources.get(URI, soon())) for _ in range(2)]
    gate.open.set()
    first, second = await asyncio.gather(*waiting)
    first.wipe()
    assert second == Secret(b"one")


async def test_nothing_is_kept_after_the_fetch() -> None:
    getter, metrics = StoredGetter({URI: b"one"}), Metrics()
    resources = Resources(lambda: getter, metrics)
    assert await resources.get(URI, soon()) == Secret(b"one")
    getter.held[URI] = b"two"
    assert await resources.get(URI, soon()) == Secret(b"two")
    del getter.held[URI]
    with pytest.raises(AgentError) as caught:
        await resources.get(URI, soon())
    assert caught.value.code is ErrorCode.RESOURCE_NOT_FOUND
    assert (looked_up(metrics, "miss"), looked_up(metrics, "joined")) == (3, 0)


async def test_an_impatient_caller_does_not_end_the_fetch_of_the_others() -> None:
    gate, clock = Gate(), FakeClock()
    resources = Resources(lambda: gate, Metrics())
    patient = asyncio.create_task(resources.get(URI, soon()))
    await gate.entered.wait()
    with pytest.raises(AgentError) as caught:
        await resources.get(URI, Deadline.after(clock, 0.0))
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
    gate.open.set()
    assert await patient == Secret(b"one")
    assert len(gate.asked) == 1


async def test_the_fetch_has_the_deadline_of_who_began_it_and_never_more_than_ours() -> None:
    gate, clock = Gate(), FakeClock()
    gate.open.set()
    resources = Resources(lambda: gate, Metrics())
    await resources.get(URI, Deadline.after(clock, 5.0))
    await resources.get(URI, Deadline.never(clock))
    assert [limit.at - clock.boot() for limit in gate.deadlines] == [5.0, limits.RPC_DEADLINE]


async def test_who_has_more_time_than_the_one_who_began_goes_on_alone() -> None:
    clock = FakeClock()

    class Slow(Gate):
        async def get(self, name: str, annotations: Mapping[str, object], deadline: Deadline) -> Secret:
            short = not self.deadlines
            value = await super().get(name, annotations, deadline)
            if short:
                raise AgentError(ErrorCode.KBS_TIMEOUT)
            return value

    slow = Slow()
    resources = Resources(lambda: slow, Metrics())
    hasty = asyncio.create_task(resources.get(URI, Deadline.after(clock, 2.0)))
    await slow.entered.wait()
    patient = [asyncio.create_task(resources.get(URI, Deadline.after(clock, 20.0))) for _ in range(3)]
    equal = asyncio.create_task(resources.get(URI, Deadline.after(clock, 2.0)))
    await asyncio.sleep(0)
    slow.open.set()
    for task in (hasty, equal):
        with pytest.raises(AgentError) as caught:
            await task
        assert caught.value.code is ErrorCode.KBS_TIMEOUT
    assert await asyncio.gather(*patient) == [Secret(b"one")] * 3
    assert len(slow.asked) == 2
    assert not resources._until


async def test_a_failed_choice_is_not_latched() -> None:
    getter = StoredGetter({URI: b"one"})
    choices: list[Getter | AgentError] = [AgentError(ErrorCode.KBS_NOT_CONFIGURED), getter]

    def choose() -> Getter:
        choice = choices.pop(0)
        if isinstance(choice, AgentError):
            raise choice
        return choice

    resources = Resources(choose, Metrics())
    with pytest.raises(AgentError) as caught:
        await resources.get(URI, soon())
    assert caught.value.code is ErrorCode.KBS_NOT_CONFIGURED
    for _ in range(2):
        assert await resources.get(URI, soon()) == Secret(b"one")
    assert choices == []


@pytest.mark.parametrize(
    "uri", ["", "default/key/1", "http://a/b/c/d", "kbs:///a/b", "kbs:///a/../c", "kbs:///a//c"]
)
async def test_a_malformed_uri_asks_nobody(uri: str) -> None:
    getter = StoredGetter()
    with pytest.raises(AgentError) as caught:
        await Resources(lambda: getter, Metrics()).get(uri, soon())
    assert caught.value.code is ErrorCode.INVALID_URI
    assert getter.asked == []


class Broker(StoredGetter):
    """A backend with a fault switch."""

    def __init__(self) -> None:
        super().__init__({URI: b"one", OTHER: b"two"})
        self.fault: ErrorCode | None = None
        self.deadlines: list[Deadline] = []

    async def get(self, name: str, annotations: Mapping[str, object], deadline: Deadline) -> Secret:
        self.deadlines.append(deadline)
        if self.fault is not None:
            self.asked.append(name)
            raise AgentError(self.fault, "fault")
        return await super().get(name, annotations, deadline)


class World:
    """Resources with a cache, a broker and a clock."""

    def __init__(self, **settings: float) -> None:
        self.broker, self.clock, self.metrics = Broker(), FakeClock(), Metrics()
        rules = (CacheRule("default/*/*", 10, 20),)
        self.cache = ResourceCache(Cache(rules, **{"negative_ttl": NEGATIVE, **settings}), self.clock)  # type: ignore[arg-type]
        self.resources = Resources(lambda: self.broker, self.metrics, self.cache)

    async def fetch(self, uri: str = URI, *, refresh: bool = False) -> tuple[bytes, Freshness, float]:
        fetched = await self.resources.fetch(uri, Deadline.after(self.clock, 20.0), refresh=refresh)
        return fetched.secret.reveal(), fetched.freshness, fetched.age

    async def failure(self, uri: str = URI, *, refresh: bool = False) -> ErrorCode:
        with pytest.raises(AgentError) as caught:
            await self.fetch(uri, refresh=refresh)
        return caught.value.code

    def counted(self, *results: str) -> tuple[float, ...]:
        return tuple(looked_up(self.metrics, result) for result in results)


@pytest.fixture
def world() -> World:
    return World()


async def test_a_kept_resource_is_not_asked_for(world: World) -> None:
    assert await world.fetch() == (b"one", Freshness.MISS, 0.0)
    world.clock.advance(3)
    for spelling in (URI, "kbs://host/default/key/1", "kbs:///default/key/%31"):
        assert world.resources.kept(spelling) is None  # not before it was served once under this spelling
        assert await world.fetch(spelling) == (b"one", Freshness.HIT, 3.0)
        kept = world.resources.kept(spelling)
        assert kept is not None
        assert (kept.secret.reveal(), kept.freshness, kept.age) == (b"one", Freshness.HIT, 3.0)
    assert len(world.broker.asked) == 1
    assert world.counted("miss", "hit") == (1, 6)
    world.clock.advance(7)
    assert world.resources.kept(URI) is None
    assert await world.fetch() == (b"one", Freshness.MISS, 0.0)
    assert len(world.broker.asked) == 2


async def test_spellings_are_bounded(world: World) -> None:
    await world.fetch()
    for number in range(limits.CACHE_SPELLINGS + 5):
        await world.fetch(f"kbs://host{number}/default/key/1")
    assert len(world.resources._spellings) <= limits.CACHE_SPELLINGS
    assert len(world.broker.asked) == 1


async def test_refresh_asks_and_replaces(world: World) -> None:
    await world.fetch()
    world.broker.held[URI] = b"new"
    assert await world.fetch() == (b"one", Freshness.HIT, 0.0)
    assert await world.fetch(refresh=True) == (b"new", Freshness.MISS, 0.0)
    assert await world.fetch() == (b"new", Freshness.HIT, 0.0)


@pytest.mark.parametrize("code", [ErrorCode.RESOURCE_DENIED, ErrorCode.RESOURCE_NOT_FOUND])
async def test_a_refusal_is_remembered_and_ends_what_was_kept(world: World, code: ErrorCode) -> None:
    await world.fetch()
    world.broker.fault = code
    assert await world.failure(refresh=True) is code
    asked = len(world.broker.asked)
    assert await world.failure() is code
    assert (len(world.broker.asked), world.counted("negative")) == (asked, (1,))
    world.broker.fault = ErrorCode.KBS_UNREACHABLE
    world.clock.advance(NEGATIVE)
    assert await world.failure() is ErrorCode.KBS_UNREACHABLE  # nothing stands in after a refusal
    world.broker.fault = code
    await world.failure()
    world.broker.fault = None
    assert await world.fetch(refresh=True) == (b"one", Freshness.MISS, 0.0)
    assert (await world.fetch())[1] is Freshness.HIT


async def test_a_refusal_is_remembered_also_where_nothing_is_kept(world: World) -> None:
    assert await world.failure("kbs:///other/key/1") is ErrorCode.RESOURCE_NOT_FOUND
    assert await world.failure("kbs:///other/key/1") is ErrorCode.RESOURCE_NOT_FOUND
    assert len(world.broker.asked) == 1


async def test_a_broker_that_is_away_is_stood_in_for_until_max_stale(world: World) -> None:
    await world.fetch()
    world.broker.fault = ErrorCode.KBS_UNREACHABLE
    world.clock.advance(10)
    assert await world.fetch() == (b"one", Freshness.STALE, 10.0)
    assert world.resources.kept(URI) is None
    assert await world.failure(refresh=True) is ErrorCode.KBS_UNREACHABLE
    world.clock.advance(19.9)
    assert (await world.fetch())[1] is Freshness.STALE
    assert world.counted("stale") == (2,)
    world.clock.advance(0.1)
    assert await world.failure() is ErrorCode.KBS_UNREACHABLE
    world.broker.fault = None
    assert await world.fetch() == (b"one", Freshness.MISS, 0.0)


@pytest.mark.parametrize(
    "code",
    [ErrorCode.KBS_TLS_FAILED, ErrorCode.JWE_INVALID, ErrorCode.NO_TEE, ErrorCode.KBS_BAD_RESPONSE],
)
async def test_nothing_stands_in_for_another_failure(world: World, code: ErrorCode) -> None:
    await world.fetch()
    world.clock.advance(10)
    world.broker.fault = code
    assert await world.failure() is code


async def test_a_signing_key_is_never_past_its_time(world: World) -> None:
    await world.fetch()
    world.clock.advance(10)
    world.broker.fault = ErrorCode.KBS_UNREACHABLE
    with pytest.raises(AgentError) as caught:
        await world.resources.get(URI, Deadline.after(world.clock, 20.0), stale=False)
    assert caught.value.code is ErrorCode.KBS_UNREACHABLE
    assert await world.resources.get(URI, Deadline.after(world.clock, 20.0)) == Secret(b"one")


async def test_a_broker_that_is_stood_in_for_is_not_waited_for_long(world: World) -> None:
    await world.fetch()
    world.clock.advance(10)
    world.broker.fault = ErrorCode.KBS_TIMEOUT
    await world.fetch()
    assert world.broker.deadlines[-1].at == world.clock.boot() + limits.CACHE_STALE_PATIENCE
    await world.resources.fetch(URI, Deadline.after(world.clock, 1.0))
    assert world.broker.deadlines[-1].at == pytest.approx(world.clock.boot() + 0.8)
    await world.failure(refresh=True)
    assert world.broker.deadlines[-1].at == world.clock.boot() + 20.0


async def test_a_guest_that_is_slow_itself_gets_its_whole_time(world: World) -> None:
    await world.fetch()
    world.clock.advance(10)
    world.broker.fault = ErrorCode.EVIDENCE_TIMEOUT
    assert await world.failure() is ErrorCode.EVIDENCE_TIMEOUT
    assert [limit.at - world.clock.boot() for limit in world.broker.deadlines[1:]] == [
        limits.CACHE_STALE_PATIENCE,
        20.0,
    ]


async def test_drop_and_invalidate_reach_the_fast_path(world: World) -> None:
    for forget in (partial(world.resources.drop, URI), partial(world.resources.invalidate, "measurement")):
        await world.fetch()
        await world.fetch()
        assert world.resources.kept(URI) is not None
        assert forget() == 1
        assert world.resources.kept(URI) is None
        assert (await world.fetch())[1] is Freshness.MISS


async def test_a_fetch_under_way_is_not_kept_after_an_invalidation() -> None:
    gate, clock = Gate(), FakeClock()
    cache = ResourceCache(Cache((CacheRule("*/*/*", 10),)), clock)
    resources = Resources(lambda: gate, Metrics(), cache)
    waiting = asyncio.create_task(resources.get(URI, soon()))
    await gate.entered.wait()
    resources.invalidate("measurement")
    gate.open.set()
    assert await waiting == Secret(b"one")
    assert len(cache) == 0


async def test_closing_wipes_everything(world: World) -> None:
    await world.fetch()
    world.resources.close()
    assert (len(world.cache), world.cache.size) == (0, 0)
    world.resources.close()


async def test_a_caller_that_leaves_before_the_fetch_begins_leaves_nothing_behind(world: World) -> None:
    task = asyncio.create_task(world.resources.fetch(URI, soon()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert not world.resources._until
    assert not world.cache._tickets
