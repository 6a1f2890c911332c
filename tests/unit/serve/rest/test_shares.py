"""Fair shares of request slots."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from agent.config import limits
from agent.errors import ErrorCode
from agent.serve.rest.answers import RestError
from agent.serve.rest.guard import Peer
from agent.serve.rest.shares import Bounds, Shares, share_key


def stay() -> None:
    raise AssertionError("it was young")


def refused(shares: Shares, peer: str, name: str | None = None) -> bool:
    try:
        with shares.slot(peer, name, stay):
            return False
    except RestError as error:
        return error.code is ErrorCode.TOO_MANY_REQUESTS


def test_whose_share_it_is() -> None:
    assert share_key(Peer(local=True, label="127.0.0.1:1")) == "127.0.0.1:1"
    assert share_key(Peer(local=True, label="uid=7,pid=1", uid=7)) == "uid=7"
    assert share_key(Peer(local=True, label="uid=7,pid=2", uid=7)) == "uid=7"


def test_slots_are_counted_and_given_back() -> None:
    shares = Shares(Bounds(2, 2, 9), lambda: 0.0)
    with ExitStack() as held:
        held.enter_context(shares.slot("a", None, stay))
        held.enter_context(shares.slot("b", None, stay))
        assert refused(shares, "c")  # T-REST-18
    assert not refused(shares, "c")


def test_one_peer_leaves_room_for_others() -> None:
    shares = Shares(Bounds(4, 2, 9), lambda: 0.0)
    with shares.slot("a", "x", stay), shares.slot("a", "y", stay):
        assert refused(shares, "a", "z")  # T-REST-22
        assert not refused(shares, "b", "z")
    assert not refused(shares, "a", "z")


def test_one_name_leaves_room_for_others() -> None:
    shares = Shares(Bounds(4, 2, 9), lambda: 0.0)
    with shares.slot("a", "x", stay), shares.slot("b", "x", stay):
        assert refused(shares, "c", "x")  # T-REST-23
        assert not refused(shares, "c", "y")
        assert not refused(shares, "c", None)
    assert not refused(shares, "c", "x")


def test_a_slot_comes_back_when_its_request_fails() -> None:
    shares = Shares(Bounds(1, 1, 9), lambda: 0.0)
    with pytest.raises(ValueError, match="broken"), shares.slot("a", "x", stay):
        raise ValueError("broken")
    assert not refused(shares, "a", "x")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_oldest_makes_room_when_all_slots_are_taken() -> None:
    clock, gone = Clock(), []
    shares = Shares(Bounds(2, 2, 9), clock)
    with ExitStack() as held:
        for name in "xy":
            held.enter_context(shares.slot(name, name, lambda name=name: gone.append(name)))  # type: ignore[misc]
            clock.now += 0.5
        clock.now = 100.0 + limits.REST_SLOT - 0.1
        assert refused(shares, "new", "z")
        clock.now = 100.0 + limits.REST_SLOT  # T-REST-25
        held.enter_context(shares.slot("new", "z", stay))
        assert gone == ["x"]
        assert refused(shares, "more", "z")
    with ExitStack() as held:  # the slot of the one that went was given back once
        for name in "ab":
            held.enter_context(shares.slot(name, name, stay))
        assert refused(shares, "c", "c")


def test_one_alone_for_its_name_makes_room_for_a_new_name() -> None:
    clock, gone = Clock(), []
    shares = Shares(Bounds(9, 9, 2), clock)
    with ExitStack() as held:
        for peer, name in ("ax", "bx", "cy"):
            held.enter_context(shares.slot(peer, name, lambda peer=peer: gone.append(peer)))  # type: ignore[misc]
        assert refused(shares, "d", "z")
        assert not refused(shares, "d", "x")
        assert not refused(shares, "d", None)
        clock.now += limits.REST_SLOT
        assert not refused(shares, "d", "z")
        assert gone == ["c"]
