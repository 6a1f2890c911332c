"""Resources: one fetch for everybody who waits for it, none kept afterwards."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from agent.clock import Deadline
from agent.config import limits
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.hub.resources import Resources
from agent.observe.metrics import Metrics
from agent.secret import Secret
from tests.unit.hub.support import StoredGetter, soon

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.hub.kms.base import Getter

URI = "kbs:///default/key/1"
OTHER = "kbs:///default/key/2"


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


async def test_the_fetch_has_a_deadline_of_its_own() -> None:
    gate, clock = Gate(), FakeClock()
    gate.open.set()
    await Resources(lambda: gate, Metrics()).get(URI, Deadline.after(clock, 5.0))
    assert gate.deadlines[0].at == clock.boot() + limits.RPC_DEADLINE


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
