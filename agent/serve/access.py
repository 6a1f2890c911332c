"""Who is calling, and how long the answer may take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from agent.clock import Deadline


class Caller(msgspec.Struct, frozen=True):
    """Where a request came in and from whom.

    Attributes:
        api: ``rest``, ``ttrpc``, ``grpc``, ``cli``, or ``file`` for a credential that is provisioned.
        peer: the other end as the kernel reports it: an address, or ``uid=0,pid=1``; for logs only.
    """

    api: str
    peer: str


class Call(msgspec.Struct, frozen=True):
    """One request under way.

    Attributes:
        caller: who asks.
        request_id: 16 lower-case hexadecimal digits; the same in the answer, the log and the audit line.
        deadline: when the caller stops waiting.
        largest: bytes of a secret that the caller's API can carry; None for any.
    """

    caller: Caller
    request_id: str
    deadline: Deadline
    largest: int | None = None
