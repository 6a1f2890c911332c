"""The thundering herd simulation behaves like what it models, and docs/scale.md says what it says."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kbs.choice import pause_within
from tests.bench.herd import figures, plot, report
from tests.bench.herd.__main__ import DOCS, dump, load, pictures
from tests.bench.herd.engine import CELLS, Engine, Run
from tests.bench.herd.guests import ERRORS, OURS, UPSTREAM, OurTries, Policy, UpstreamTries
from tests.bench.herd.model import DOWN, FULL, LATE, LOST, OK, Broker, Scenario

if TYPE_CHECKING:
    from collections.abc import Callable

ALL = figures.POLICIES | figures.VARIANTS
STORM = figures.SMALL["15, outage"]


class Watched(Broker):
    """Notes what arrived, and what was served when."""

    __slots__ = ("answers", "capacity")

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.capacity = scenario.capacity
        self.answers: list[tuple[float, float, float, int]] = []

    def offer(self, now: float, cost: float) -> tuple[float, int]:
        end, ended = super().offer(now, cost)
        self.answers.append((now, end, cost / self.capacity, ended))
        return end, ended


def play(policy: Policy, scenario: Scenario = STORM, seed: int = 1) -> tuple[Run, Watched]:
    broker = Watched(scenario)
    return Engine(scenario, policy, seed, broker).run(), broker


@pytest.mark.parametrize("label", ALL)
def test_every_guest_gets_each_resource_once(label: str) -> None:
    run, broker = play(ALL[label])
    assert run.fetched == [STORM.resources] * STORM.guests
    assert all(served > booted for served, booted in zip(run.served, run.booted, strict=True))
    assert sum(run.arrived) == sum(run.ended) == len(broker.answers)
    attested = sum(run.attested)
    if ALL[label].keeps:
        assert STORM.guests <= attested < 3 * STORM.guests
    else:
        assert attested >= STORM.guests * STORM.resources


@pytest.mark.parametrize("label", ALL)
def test_the_broker_serves_one_request_at_a_time_and_none_while_it_is_down(label: str) -> None:
    _, broker = play(ALL[label])
    down, up = STORM.outage
    free = 0.0
    for now, end, work, ended in broker.answers:
        if down <= now < up:
            assert ended == DOWN
        if ended == OK:
            begin = end - work
            assert begin >= free - 1e-9
            assert begin >= now - 1e-9
            assert end <= down or begin >= up
            free = end
        else:
            assert end == (down if ended == LOST else now)


def test_requests_that_were_refused_are_tried_again() -> None:
    run, _ = play(OURS)
    assert run.ended[FULL] > 100
    assert run.ended[DOWN] > 100
    needed = STORM.guests * STORM.resources + 2 * sum(run.attested)
    assert run.ended[OK] >= needed > 0


def test_the_queue_is_bounded() -> None:
    scenario = Scenario(guests=1, capacity=1.0, outage=figures.NO_OUTAGE, queue=2)
    broker = Broker(scenario)
    assert [broker.offer(0.0, 1.0) for _ in range(4)] == [(1.0, OK), (2.0, OK), (3.0, OK), (0.0, FULL)]
    assert broker.offer(1.0, 1.0) == (4.0, OK)


def test_an_outage_loses_what_waits_and_the_broker_comes_back_idle() -> None:
    broker = Broker(Scenario(guests=1, capacity=1.0, outage=(2.5, 3.0), queue=10))
    ends = [broker.offer(0.0, 1.0) for _ in range(5)]
    assert ends == [(1.0, OK), (2.0, OK), (2.5, LOST), (2.5, LOST), (2.5, LOST)]
    assert broker.offer(2.9, 1.0) == (2.9, DOWN)
    assert broker.offer(3.0, 1.0) == (4.0, OK)


@pytest.mark.parametrize("label", ["ours", "upstream"])
def test_a_seed_decides_everything(label: str) -> None:
    first, _ = play(ALL[label], seed=7)
    again, _ = play(ALL[label], seed=7)
    other, _ = play(ALL[label], seed=8)
    assert first == again
    assert first.served != other.served


def test_both_policies_see_the_same_arrivals() -> None:
    assert play(OURS)[0].booted == play(UPSTREAM)[0].booted


def test_a_quiet_boot_costs_what_the_protocol_says() -> None:
    quiet = replace(STORM, capacity=10_000.0, outage=figures.NO_OUTAGE)
    ours, _ = play(OURS, quiet)
    upstream, _ = play(UPSTREAM, quiet)
    assert sum(ours.ended) == STORM.guests * (2 + STORM.resources)
    assert sum(upstream.ended) == STORM.guests * 3 * STORM.resources
    assert ours.attested == [1] * STORM.guests
    assert upstream.attested == [STORM.resources] * STORM.guests


def test_a_token_that_is_in_use_is_renewed_before_it_ends() -> None:
    # 550 GETs' worth of work at one per second: longer than a token lives.
    scenario = Scenario(guests=50, capacity=1.0, outage=figures.NO_OUTAGE, boot=1.0, queue=1000)
    run, _ = play(OURS, scenario)
    assert sum(run.attested) > scenario.guests


def test_a_caller_that_cannot_wait_is_late() -> None:
    slow = Scenario(guests=3, capacity=0.05, outage=figures.NO_OUTAGE, boot=1.0, resources=1)
    engine = Engine(slow, OURS, 1)
    world = engine._world
    request = next(engine._flows[0])
    assert engine._send(request[0], world.now, request[1])[1] == OK
    assert engine._send(request[0], world.now, request[1])[1] == OK
    assert engine._send(request[0], world.now, request[1]) == (request[1], LATE)


@given(
    failed=st.integers(1, 40),
    ended=st.sampled_from(sorted(ERRORS)),
    left=st.floats(0.0, 60.0),
    seed=st.integers(),
)
def test_our_pauses_are_those_of_the_client(failed: int, ended: int, left: float, seed: int) -> None:
    def chance() -> Callable[[], float]:
        return random.Random(seed).random  # noqa: S311

    real = pause_within(failed, ERRORS[ended], chance(), left)
    played = OurTries().resource(failed, ended, left, chance())
    assert played == pytest.approx(-1.0 if real is None else real)


def test_upstream_makes_five_handshakes_a_second_apart() -> None:
    tries = UpstreamTries()
    pauses = [tries.handshake(failed, DOWN, 50.0, random.random) for failed in range(1, 6)]
    assert pauses == [1.0, 1.0, 1.0, 1.0, -1.0]
    assert tries.resource(1, FULL, 50.0, random.random) == -1.0


def test_the_peak_is_that_of_any_second() -> None:
    run = Run([0.0], [1.0], [1], [1], [0] * 8 + [5] * 4 + [0] * 20, [0] * 5)
    assert figures.peak(run) == 20
    assert figures.peak(run, 1.0) == 10
    assert figures.quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert figures.quantile([float(i) for i in range(1, 101)], 0.99) == 99.0


def test_the_course_adds_up() -> None:
    run, _ = play(OURS)
    course = figures.course(run)
    assert sum(course["arrived"]) == sum(run.arrived)
    assert course["served"][-1] == STORM.guests
    assert len(run.arrived) <= CELLS * len(course["arrived"])


# --- docs/scale.md ------------------------------------------------------------------------------------
def test_the_record_is_of_this_simulation() -> None:
    """Small storms stand for the large ones: a change of policy or model shows in both."""
    assert load().small == figures.small(), "run: make scale"


def test_the_page_and_the_pictures_say_what_the_record_says() -> None:
    record = load()
    assert (DOCS / "scale.json").read_text() == dump(record), "run: make scale"
    page = (DOCS / "scale.md").read_text()
    assert report.render(page, record) == page, "run: make scale"
    for path, picture in pictures(record).items():
        assert path.read_text() == picture, "run: make scale"
        assert f"img/{path.name}" in page


def test_the_record_keeps_its_promise() -> None:
    """coco-agent serves everybody sooner, with fewer requests, in every storm."""
    for played in load().storms.values():
        for name in ("all_served_s", "guest_p50_s", "guest_p99_s", "requests", "attestations"):
            assert played["ours"][name][2] < played["upstream"][name][1], name


def test_a_picture_is_well_formed_and_stays_inside_its_frame() -> None:
    course = {"arrived": [5, 20, 3], "served": [0, 10, 300]}
    root = ET.fromstring(plot.draw(STORM, {"ours": course, "upstream": course}))  # noqa: S314
    lines = [tag.get("points", "") for tag in root if tag.tag.endswith("polyline")]
    assert len(lines) == 6
    for points in lines:
        for point in points.split():
            x, y = (float(part) for part in point.split(","))
            assert 0 <= x <= plot.WIDTH
            assert 0 <= y <= plot.HEIGHT
