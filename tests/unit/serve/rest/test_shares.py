"""Fair shares of request slots."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from agent.errors import ErrorCode
from agent.serve.rest.answers import RestError
from agent.serve.rest.guard import Peer
from agent.serve.rest.shares import Shares, share_key


def refused(shares: Shares, peer: str, name: str | None = None) -> bool:
    try:
        with shares.slot(peer, name):
            return False
    except RestError as error:
        return error.code is ErrorCode.TOO_MANY_REQUESTS


def test_whose_share_it_is() -> None:
    assert share_key(Peer(local=True, label="127.0.0.1:1")) == "127.0.0.1:1"
    assert share_key(Peer(local=True, label="uid=7,pid=1", uid=7)) == "uid=7"
    assert share_key(Peer(local=True, label="uid=7,pid=2", uid=7)) == "uid=7"


def test_slots_are_counted_and_given_back() -> None:
    shares = Shares(2, 2)
    with ExitStack() as held:
        held.enter_context(shares.slot("a", None))
        held.enter_context(shares.slot("b", None))
        assert refused(shares, "c")  # T-REST-18
    assert not refused(shares, "c")


def test_one_peer_leaves_room_for_others() -> None:
    shares = Shares(4, 2)
    with shares.slot("a", "x"), shares.slot("a", "y"):
        assert refused(shares, "a", "z")  # T-REST-22
        assert not refused(shares, "b", "z")
    assert not refused(shares, "a", "z")


def test_one_name_leaves_room_for_others() -> None:
    shares = Shares(4, 2)
    with shares.slot("a", "x"), shares.slot("b", "x"):
        assert refused(shares, "c", "x")  # T-REST-23
        assert not refused(shares, "c", "y")
        assert not refused(shares, "c", None)
    assert not refused(shares, "c", "x")


def test_a_slot_comes_back_when_its_request_fails() -> None:
    shares = Shares(1, 1)
    with pytest.raises(ValueError, match="broken"), shares.slot("a", "x"):
        raise ValueError("broken")
    assert not refused(shares, "a", "x")
