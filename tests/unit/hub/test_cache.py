"""The resource cache: bounds, times, and what makes an entry go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from agent.config import limits
from agent.config.model import Cache, CacheRule
from agent.config.uri import parse_uri
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.hub import cache as subject
from agent.hub.cache import Key, ResourceCache, key_of, unreachable
from agent.secret import Secret

if TYPE_CHECKING:
    from agent.hub.cache import Ticket

TTL, STALE = 10.0, 20.0
REFUSALS = [code for code in ErrorCode if code in subject.REFUSALS]
RULES = (CacheRule("never/*/*", 0), CacheRule("brief/*/*", 1), CacheRule("*/*/*", TTL, STALE))

NEGATIVE = 3.0  # seconds a refusal is remembered here; by default none is


class Watched(bytearray):
    """Plaintext that must be zero when it is let go."""

    wiped = False

    def clear(self) -> None:
        assert not any(self), "let go without being overwritten"
        self.wiped = True
        super().clear()


def key(text: str) -> Key:
    return key_of(parse_uri(f"kbs:///{text}"))


ONE, TWO, THREE = key("a/b/1"), key("a/b/2"), key("a/b/3")


class Box:
    """A cache, its clock and its identity."""

    def __init__(self, rules: tuple[CacheRule, ...] = RULES, **bounds: float) -> None:
        self.clock = FakeClock()
        self.identity = "one"
        settings = Cache(rules, **{"negative_ttl": NEGATIVE, **bounds})  # type: ignore[arg-type]
        self.cache = ResourceCache(settings, self.clock, lambda: self.identity)
        self.watched: list[Watched] = []

    def release(self, what: Key, value: bytes = b"value") -> None:
        ticket = self.begin(what)
        self.store(ticket, value)
        self.cache.end(ticket)

    def begin(self, what: Key) -> Ticket:
        return self.cache.begin(what, f"kbs:///{'/'.join(what.names)}")

    def store(self, ticket: Ticket, value: bytes) -> None:
        self.cache.store(ticket, Secret(value))
        entry = self.cache._kept.get(ticket.key)
        if entry is not None and not isinstance(entry.secret._value, Watched):
            entry.secret._value = Watched(entry.secret._value)
            self.watched.append(entry.secret._value)

    def refuse(self, what: Key, code: ErrorCode = ErrorCode.RESOURCE_DENIED) -> None:
        ticket = self.begin(what)
        self.cache.refuse(ticket, AgentError(code, "policy", problem="PolicyDeny"))
        self.cache.end(ticket)

    def fresh(self, what: Key) -> bytes | None:
        found = self.cache.fresh(what)
        return None if found is None else found.secret.reveal()

    def stale(self, what: Key) -> bytes | None:
        found = self.cache.stale(what)
        return None if found is None else found.secret.reveal()

    @property
    def wiped(self) -> int:
        return sum(value.wiped for value in self.watched)


def test_without_a_rule_nothing_is_kept() -> None:
    box = Box(rules=())
    box.release(ONE)
    assert (box.fresh(ONE), box.stale(ONE), len(box.cache)) == (None, None, 0)


def test_the_first_rule_that_matches_decides() -> None:
    box = Box()
    for name in ("never/b/1", "brief/b/1", "other/b/1"):
        box.release(key(name))
    box.clock.advance(1)
    assert box.fresh(key("never/b/1")) is None
    assert box.fresh(key("brief/b/1")) is None
    assert box.fresh(key("other/b/1")) == b"value"


def test_an_entry_lives_for_its_ttl_and_is_a_stand_in_for_max_stale() -> None:
    box = Box()
    box.release(ONE)
    box.clock.advance(TTL - 0.001)
    found = box.cache.fresh(ONE)
    assert found is not None
    assert found.age == pytest.approx(TTL - 0.001)
    box.clock.advance(0.001)
    assert box.fresh(ONE) is None
    assert box.cache.spare(ONE)
    box.clock.advance(STALE - 0.001)
    assert box.stale(ONE) == b"value"
    box.clock.advance(0.001)
    assert box.stale(ONE) is None
    assert not box.cache.spare(ONE)


def test_life_counts_from_when_the_broker_was_asked() -> None:
    box = Box()
    ticket = box.begin(ONE)
    box.clock.advance(4)
    box.store(ticket, b"slow")
    found = box.cache.fresh(ONE)
    assert found is not None
    assert found.age == 4
    late = box.begin(TWO)
    box.clock.advance(TTL + STALE)
    box.store(late, b"too slow")
    assert len(box.cache) == 1


def test_the_wall_clock_has_no_say() -> None:
    box = Box()
    box.release(ONE)
    box.clock.jump_wall(-1e9)
    box.clock.advance(TTL)
    assert box.fresh(ONE) is None


def test_spellings_are_one_and_queries_are_not() -> None:
    box = Box(rules=(CacheRule("kbs+plug:///*/*", TTL),))
    plain, escaped, other = (key_of(parse_uri(f"kbs+plug:///a/{tail}")) for tail in ("b", "%62", "b?x=1"))
    box.release(plain)
    assert box.fresh(escaped) == b"value"
    assert box.fresh(other) is None


def test_the_least_recently_used_entry_makes_room() -> None:
    box = Box(max_entries=2)
    box.release(ONE)
    box.release(TWO)
    assert box.fresh(ONE)
    box.release(THREE)
    assert (box.fresh(ONE), box.fresh(TWO), box.fresh(THREE)) == (b"value", None, b"value")
    assert box.wiped == 1


def test_bytes_are_bounded_and_one_too_large_displaces_nothing_else() -> None:
    box = Box(max_bytes=10)
    box.release(ONE, b"12345")
    box.release(TWO, b"12345")
    box.release(THREE, b"12345678901")
    assert (len(box.cache), box.cache.size) == (2, 10)
    box.release(THREE, b"1")
    assert (box.fresh(ONE), box.cache.size) == (None, 6)
    box.release(TWO, b"12345678901")
    assert (box.fresh(TWO), box.cache.size) == (None, 1)
    assert box.wiped == 2


def test_a_new_value_overwrites_the_old_one() -> None:
    box = Box()
    box.release(ONE, b"old")
    box.release(ONE, b"new!")
    assert (box.fresh(ONE), box.cache.size, box.wiped) == (b"new!", 4, 1)


def test_what_is_handed_out_is_a_copy() -> None:
    box = Box()
    box.release(ONE)
    found = box.cache.fresh(ONE)
    assert found is not None
    found.secret.wipe()
    assert box.fresh(ONE) == b"value"
    kept = box.cache.fresh(ONE)
    box.cache.drop(ONE)
    assert kept is not None
    assert kept.secret.reveal() == b"value"


@pytest.mark.parametrize("code", REFUSALS)
def test_a_refusal_ends_what_was_released_before(code: ErrorCode) -> None:
    box = Box()
    box.release(ONE)
    box.release(TWO)
    box.refuse(ONE, code)
    assert (box.fresh(ONE), box.stale(ONE), box.fresh(TWO)) == (None, None, b"value")
    assert box.wiped == 1
    refusal = box.cache.refusal(ONE)
    assert (refusal is not None) == (code in subject.REMEMBERED)


def test_a_guest_whose_evidence_is_refused_keeps_nothing() -> None:
    box = Box()
    box.release(ONE)
    box.release(TWO)
    box.refuse(THREE, ErrorCode.ATTESTATION_REJECTED)
    assert (len(box.cache), box.cache.size, box.wiped) == (0, 0, 2)


@pytest.mark.parametrize(
    "code", [ErrorCode.KBS_UNREACHABLE, ErrorCode.KBS_TLS_FAILED, ErrorCode.INTERNAL, ErrorCode.KBS_BUSY]
)
def test_trouble_is_no_refusal(code: ErrorCode) -> None:
    box = Box()
    box.release(ONE)
    box.refuse(ONE, code)
    assert box.fresh(ONE) == b"value"
    assert box.cache.refusal(ONE) is None


def test_only_a_broker_that_cannot_be_reached_may_be_stood_in_for() -> None:
    assert {code.name for code in ErrorCode if unreachable(code)} == {
        "KBS_UNREACHABLE",
        "KBS_DNS_FAILED",
        "KBS_BUSY",
        "KBS_TIMEOUT",
        "KBS_TLS_TIMEOUT",
        "APPRAISAL_TIMEOUT",
    }


def test_a_refusal_is_remembered_for_a_moment_with_its_cause() -> None:
    box = Box()
    box.refuse(ONE)
    box.clock.advance(NEGATIVE - 0.001)
    refusal = box.cache.refusal(ONE)
    assert refusal is not None
    assert (refusal.code, refusal.problem) == (ErrorCode.RESOURCE_DENIED, "PolicyDeny")
    assert "policy" in refusal.detail
    box.clock.advance(0.001)
    assert box.cache.refusal(ONE) is None
    box.refuse(ONE)
    box.release(ONE)
    assert box.cache.refusal(ONE) is None


def test_refusals_can_be_switched_off_and_are_bounded() -> None:
    off = Box(negative_ttl=0)
    off.refuse(ONE)
    assert off.cache.refusal(ONE) is None
    box = Box()
    for number in range(limits.CACHE_REFUSALS + 10):
        box.refuse(key(f"typo/b/{number}"), ErrorCode.RESOURCE_NOT_FOUND)
    assert len(box.cache.rows()) == limits.CACHE_REFUSALS
    assert box.cache.refusal(key("typo/b/0")) is None


def test_another_identity_gets_nothing_of_the_first() -> None:
    box = Box()
    box.release(ONE)
    box.refuse(TWO)
    box.identity = "two"
    assert box.fresh(ONE) is None
    assert box.cache.refusal(TWO) is None
    assert box.wiped == 1


def test_an_identity_that_is_unknown_for_a_while_changes_nothing() -> None:
    box = Box()
    box.release(ONE)
    box.identity = ""
    assert box.fresh(ONE) == b"value"
    box.identity = "one"
    assert box.fresh(ONE) == b"value"


def test_the_first_answer_is_kept_although_its_identity_came_with_it() -> None:
    box = Box()
    box.identity = ""
    first, second = box.begin(ONE), box.begin(TWO)
    box.identity = "one"
    box.store(first, b"first")
    box.store(second, b"second")
    assert (box.fresh(ONE), box.fresh(TWO)) == (b"first", b"second")


@pytest.mark.parametrize("happens", ["drop", "invalidate", "identity", "refuse"])
def test_an_answer_that_was_asked_for_before_something_happened_is_not_kept(happens: str) -> None:
    box = Box()
    box.release(TWO)
    ticket = box.begin(ONE)
    match happens:
        case "drop":
            box.cache.drop(ONE)
        case "invalidate":
            box.cache.invalidate("measurement")
        case "identity":
            box.identity = "two"
        case "refuse":
            box.refuse(ONE)
    box.store(ticket, b"too late")
    assert box.fresh(ONE) is None
    box.cache.end(ticket)
    box.release(ONE)
    assert box.fresh(ONE) == b"value"


def test_what_is_past_its_time_is_overwritten_by_the_sweep() -> None:
    box = Box()
    box.release(key("brief/b/1"))
    box.release(ONE)
    assert box.cache.sweep() == 1
    box.clock.advance(1)
    assert box.cache.sweep() == TTL + STALE - 1
    assert box.wiped == 1
    box.clock.advance(TTL + STALE)
    assert box.cache.sweep() is None
    assert (box.wiped, box.cache.size) == (2, 0)


def test_the_list_has_names_and_times_and_no_plaintext() -> None:
    box = Box()
    box.release(ONE, b"c4n4ry")
    box.clock.advance(TTL + 1)
    box.release(TWO, b"c4n4ry")
    box.refuse(THREE)
    rows = {row.name: row for row in box.cache.rows()}
    assert [rows[f"kbs:///a/b/{n}"].state for n in (1, 2, 3)] == ["stale", "fresh", "refused"]
    assert [rows[f"kbs:///a/b/{n}"].left for n in (1, 2)] == [STALE - 1, TTL]
    assert rows["kbs:///a/b/1"].size == 6
    assert "c4n4ry" not in repr(rows) + repr(box.cache._kept)


def test_a_pattern_that_cannot_be_read_is_a_configuration_error() -> None:
    with pytest.raises(AgentError) as caught:
        Box(rules=(CacheRule("a/**", 1),))
    assert caught.value.code is ErrorCode.CONFIG_INVALID


NAMES = [key(f"{repository}/b/{n}") for repository in ("never", "brief", "other") for n in "12"]
MOST, BYTES = 3, 40


class Machine(RuleBasedStateMachine):
    """Whatever happens in whatever order: bounds hold, times hold, and a refusal is the last word."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.box = Box(max_entries=MOST, max_bytes=BYTES)
        self.released: dict[Key, tuple[bytes, float]] = {}
        self.refused_at: dict[Key, float] = {}
        self.order = 0
        self.asked: dict[int, int] = {}
        self.ended: dict[Key, int] = {}

    @rule(target=tickets, what=st.sampled_from(NAMES))
    def ask(self, what: Key) -> tuple[Ticket, int]:
        self.order += 1
        return self.box.begin(what), self.order

    @rule(
        asked=consumes(tickets),
        size=st.sampled_from([0, 1, 15, 25, BYTES, BYTES + 1]),
        fill=st.integers(1, 255),
    )
    def release(self, asked: tuple[Ticket, int], size: int, fill: int) -> None:
        ticket, order = asked
        before = ticket.void
        value = bytes([fill]) * size
        self.box.store(ticket, value)
        if not before and not ticket.void:
            assert order > self.ended.get(ticket.key, 0), "kept although something ended it"
            self.released[ticket.key] = value, ticket.began
        self.box.cache.end(ticket)

    @rule(asked=consumes(tickets), code=st.sampled_from(REFUSALS))
    def refuse(self, asked: tuple[Ticket, int], code: ErrorCode) -> None:
        ticket, _ = asked
        self.box.cache.refuse(ticket, AgentError(code))
        self.box.cache.end(ticket)
        self._end(ticket.key)

    @rule(asked=tickets)
    def fail(self, asked: tuple[Ticket, int]) -> None:
        self.box.cache.refuse(asked[0], AgentError(ErrorCode.KBS_UNREACHABLE))

    @rule(what=st.sampled_from(NAMES))
    def drop(self, what: Key) -> None:
        self.box.cache.drop(what)
        self._end(what)

    @rule(identity=st.sampled_from(["one", "two", ""]))
    def change(self, identity: str) -> None:
        before, self.box.identity = self.box.cache._seen, identity
        if identity and before and identity != before:
            for what in NAMES:
                self._end(what)
        self.box.cache.rows()  # somebody looks

    @rule(seconds=st.sampled_from([0.5, 1.0, TTL, STALE]))
    def wait(self, seconds: float) -> None:
        self.box.clock.advance(seconds)

    @rule()
    def sweep(self) -> None:
        self.box.cache.sweep()
        now = self.box.clock.boot()
        assert all(now < entry.stale_until for entry in self.box.cache._kept.values())

    def _end(self, what: Key) -> None:
        self.order += 1
        self.ended[what] = self.order
        self.released.pop(what, None)

    @invariant()
    def bounds_hold(self) -> None:
        cache = self.box.cache
        assert len(cache) <= MOST
        assert cache.size <= BYTES
        assert cache.size == sum(len(entry.secret) for entry in cache._kept.values())
        assert len(self.box.watched) - self.box.wiped == len(cache)

    @invariant()
    def only_what_was_released_last_is_served_and_only_in_time(self) -> None:
        now = self.box.clock.boot()
        for what in NAMES:
            ttl = {"never": 0.0, "brief": 1.0}.get(what.names[0], TTL)
            extra = STALE if what.names[0] == "other" else 0.0
            for value, most in ((self.box.fresh(what), ttl), (self.box.stale(what), ttl + extra)):
                if value is not None:
                    wanted, began = self.released[what]
                    assert value == wanted
                    assert now - began < most


Machine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestMachine = Machine.TestCase
