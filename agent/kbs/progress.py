"""Where an exchange with the broker is, so that one whose time is up can name what used it."""

from __future__ import annotations

import asyncio
import enum
from contextvars import ContextVar
from typing import Final

import msgspec

from agent.errors import ErrorCode
from agent.http.client.exchange import Step


class Phase(enum.Enum):
    """What an exchange waits for; the value follows "while" in a sentence."""

    QUEUE = "waiting for a free connection"
    DNS = "resolving the broker's name"
    CONNECT = "connecting to the broker"
    TLS = "shaking hands with the broker by TLS"
    ANSWER = "waiting for the broker's answer"
    BODY = "reading the broker's answer"

    def timeout(self, endpoint: str) -> ErrorCode:
        """What it means that time ran out here.

        Args:
            endpoint: ``auth``, ``attest`` or ``resource``.
        """
        code = _TIMEOUTS.get(self, ErrorCode.KBS_TIMEOUT)
        late = code is ErrorCode.KBS_TIMEOUT and self is not Phase.QUEUE
        return ErrorCode.APPRAISAL_TIMEOUT if late and endpoint == "attest" else code


_TIMEOUTS: Final = {
    Phase.DNS: ErrorCode.KBS_DNS_FAILED,
    Phase.CONNECT: ErrorCode.KBS_UNREACHABLE,
    Phase.TLS: ErrorCode.KBS_TLS_TIMEOUT,
}


_STEPS: Final = {
    Step.NAME: Phase.DNS,
    Step.CONNECT: Phase.CONNECT,
    Step.TLS: Phase.TLS,
    Step.ANSWER: Phase.ANSWER,
}


class Progress(msgspec.Struct):
    """One exchange under way; the HTTP client's :class:`agent.http.client.exchange.Steps`.

    Attributes:
        phase: what it waits for.
        reused: the request went out on a connection that was kept from an earlier one.
        sent: loop time, in seconds, when it began to go out.
    """

    phase: Phase = Phase.QUEUE
    reused: bool = False
    sent: float = 0.0

    @property
    def connected(self) -> bool:
        """The request was going out, or the answer coming in."""
        return self.phase in {Phase.ANSWER, Phase.BODY}

    def reached(self, step: Step, *, kept: bool = False) -> None:
        """See :meth:`agent.http.client.exchange.Steps.reached`."""
        self.phase, self.reused = _STEPS[step], kept
        if step is Step.ANSWER:
            self.sent = asyncio.get_running_loop().time()


_watched: ContextVar[Progress | None] = ContextVar("watched", default=None)
_background: ContextVar[bool] = ContextVar("background", default=False)


def work_in_background() -> None:
    """Nobody waits for what this task, and the tasks it starts, ask of the broker from here on."""
    _background.set(True)


def background() -> bool:
    """Whether nobody waits for what this task does."""
    return _background.get()


def watch() -> Progress:
    """Where the exchanges of this task are from here on, one after the other.

    For those who wait for the task and cannot wait until it ends.
    """
    progress = Progress()
    _watched.set(progress)
    return progress


def begin() -> Progress:
    """An exchange begins in this task."""
    progress = _watched.get() or Progress()
    progress.phase, progress.reused = Phase.QUEUE, False
    return progress
