"""Stands in for the attester of a TEE that is recognised, but that this release cannot talk to yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from agent.clock import Deadline


class UnsupportedAttester:
    """Names its TEE and produces nothing. Satisfies ``agent.tee.base.Attester``.

    Attributes:
        tee: wire string.
    """

    __slots__ = ("tee",)

    def __init__(self, tee: str) -> None:
        self.tee = tee

    def problem(self) -> AgentError:
        """TEE_NOT_SUPPORTED, naming the TEE."""
        return AgentError(ErrorCode.TEE_NOT_SUPPORTED, f"{self.tee}: recognised, no attester in this release")

    async def collect(self, report_data: bytes, deadline: Deadline) -> NoReturn:
        """Fail.

        Raises:
            AgentError: TEE_NOT_SUPPORTED, always.
        """
        del report_data, deadline
        raise self.problem()
