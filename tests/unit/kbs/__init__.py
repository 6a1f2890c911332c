"""broker protocol: the pure core"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from hypothesis import HealthCheck, settings

from agent.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.errors import ErrorCode

T = TypeVar("T")

# Time limits off: they fail on a loaded machine and say nothing about the parser.
PROPERTY: Final = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def outcome(declared: ErrorCode, attempt: Callable[[], T]) -> T | None:
    """The result, or None when the declared error came; anything else escapes and fails the test."""
    try:
        return attempt()
    except AgentError as error:
        if error.code is not declared:
            raise
        return None
