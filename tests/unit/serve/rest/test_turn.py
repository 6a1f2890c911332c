"""Large answers take turns."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from agent.config import limits
from agent.roles import Fetched, Freshness
from agent.secret import Secret
from agent.serve.rest.answers import RestError
from agent.serve.rest.turn import Turn
from tests.unit.serve.rest.parts import Gate

BIG = limits.REST_TURN


async def test_a_name_that_made_its_bytes_waits_for_the_next_turn() -> None:
    turn = Turn()
    turn.made("a", BIG)
    assert turn.spent("a")
    assert not turn.spent("b")
    await turn.come("a")
    assert not turn.spent("a")


async def test_small_answers_are_not_counted() -> None:
    turn = Turn()
    for _ in range(BIG // limits.HTTP_PIECE + 1):
        turn.made("a", limits.HTTP_PIECE)
    assert not turn.spent("a")


async def test_many_callers_of_a_large_resource_are_served_one_in_a_turn() -> None:
    # T-REST-24
    gate = Gate()
    gate.front.kept = lambda uri: Fetched(Secret(bytes(BIG if "big" in uri else 1)), Freshness.HIT)
    asked = [asyncio.create_task(gate.ask("GET", "/cdh/resource/a/b/big")) for _ in range(5)]
    served = [0]
    while served[-1] < len(asked):
        await asyncio.sleep(0)
        assert (await gate.ask("GET", "/cdh/resource/a/b/small")).status == 200
        served.append(sum(task.done() for task in asked))
    assert max(after - before for before, after in pairwise(served)) == 1
    assert [task.result().status for task in asked] == [200] * 5
    assert gate.roles.asked == []


async def test_a_crowd_for_a_large_resource_is_refused_beyond_a_few() -> None:
    turn = Turn()
    turn.made("a", BIG)
    crowd = [turn.come("a") for _ in range(limits.REST_TURN_WAITING)]
    for one in crowd:
        one.send(None)  # within the turn: it waits
    with pytest.raises(RestError):
        await turn.come("a")
    for one in crowd:
        one.close()
    await turn.come("a")
