from __future__ import annotations

import pytest

from agent.config import limits
from agent.serve.ttrpc.holding import Load


class TestLoad:
    def test_calls_are_bounded_over_all_connections(self) -> None:
        load = Load(calls=limits.TTRPC_MAX_CALLS - 1)
        assert load.admits(limits.TTRPC_OWN_CALLS, 0, 1)
        load.begin(1)
        assert not load.admits(limits.TTRPC_OWN_CALLS, 0, 1)
        load.end()
        assert load.admits(limits.TTRPC_OWN_CALLS, 0, 1)

    def test_a_few_calls_of_each_connection_are_always_served(self) -> None:
        load = Load(calls=limits.TTRPC_MAX_CALLS, asked=limits.TTRPC_MAX_ASKED)
        assert load.admits(limits.TTRPC_OWN_CALLS - 1, 0, limits.TTRPC_OWN_BYTES)

    @pytest.mark.parametrize(("asked", "size"), [(0, 1), (1, 0)])
    def test_their_bytes_are_bounded_as_well(self, asked: int, size: int) -> None:
        load = Load(asked=limits.TTRPC_MAX_ASKED)
        assert not load.admits(0, asked * limits.TTRPC_OWN_BYTES, size * limits.TTRPC_OWN_BYTES + 1)
