"""The rules of the attack rows, and that what attackers send stays unfinished."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.bench.attack.kinds import ATTACKS, FRAME, MIB
from tests.bench.attack.result import Answers, Memory, Result
from tests.bench.calls import HEADER
from tests.bench.figures import BY_KEY

QUICK = Answers(20.0, 5.0)
GOOD = Result(
    name="bodies",
    lived=True,
    standing=2000,
    opened=2100,
    sent_mb=40.0,
    healthz=QUICK,
    cached=QUICK,
    control_ms=3.0,
    before=Memory(50.0, 36.0),
    peak=Memory(114.0, 100.0),
    after=Memory(55.0, 60.0),
    after_s=1.0,
)


def test_a_result_at_the_edge_of_every_rule_is_good() -> None:
    edge = replace(GOOD, healthz=Answers(103.0, 5.0), cached=Answers(103.0, 5.0))
    assert edge.broken() + edge.late() == []


@pytest.mark.parametrize(
    "result",
    [
        replace(GOOD, lived=False, after=None),
        replace(GOOD, peak=Memory(114.1, 100.0)),
        replace(GOOD, peak=Memory(60.0, 100.1)),
        replace(GOOD, after=Memory(55.1, 36.0)),
    ],
)
def test_each_rule_of_life_and_memory_can_be_broken(result: Result) -> None:
    assert len(result.broken()) == 1
    assert result.late() == []


@pytest.mark.parametrize("field", ["healthz", "cached"])
def test_a_late_answer_is_one_that_is_not_late_without_the_attack(field: str) -> None:
    slow = Answers(103.1, 5.0)
    late = replace(GOOD, healthz=slow) if field == "healthz" else replace(GOOD, cached=slow)
    assert len(late.late()) == 1
    assert late.broken() == []
    assert replace(late, control_ms=3.1).late() == []


def test_memory_that_cannot_be_read_proportionally_is_judged_by_what_can() -> None:
    result = replace(GOOD, before=Memory(50.0, 0.0), peak=Memory(60.0, 0.0), after=Memory(56.0, 0.0))
    assert len(result.broken()) == 1


@pytest.mark.parametrize("name", ATTACKS)
def test_every_row_has_its_keys(name: str) -> None:
    assert {key for key, _ in replace(GOOD, name=name).figures()} <= set(BY_KEY)


def test_a_dead_agent_has_no_memory_afterwards() -> None:
    keys = {key for key, _ in replace(GOOD, lived=False, after=None).figures()}
    assert "attack_bodies_lived" in keys
    assert "attack_bodies_rss_after_mb" not in keys


def test_bodies_announce_what_never_comes() -> None:
    script = ATTACKS["bodies"].script
    announced, chunked = script(0).send.partition(b"\r\n\r\n"), script(1).send.partition(b"\r\n\r\n")
    assert f"Content-Length: {MIB}".encode() in announced[0]
    assert len(announced[2]) == MIB - 1
    assert b"Transfer-Encoding: chunked" in chunked[0]
    assert chunked[2].startswith(b"%x\r\n" % MIB)
    assert len(chunked[2].partition(b"\r\n")[2]) == MIB - 1


def test_heads_do_not_end_whatever_drips() -> None:
    scripts = [ATTACKS["heads"].script(number) for number in (0, 1)]
    assert [bool(script.drip) for script in scripts] == [False, True]
    assert all(b"\r\n\r\n" not in script.send + script.drip * 100 for script in scripts)


def test_frames_lack_one_byte() -> None:
    sent = ATTACKS["ttrpc"].script(0).send
    assert HEADER.unpack_from(sent)[0] == FRAME == len(sent) - HEADER.size + 1


def test_slow_names_are_all_different() -> None:
    attack = ATTACKS["slow_names"]
    assert len({attack.script(number).send for number in range(attack.count)}) == attack.count
