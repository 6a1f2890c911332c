"""The operator's socket: look at the resource cache and empty it, from inside the guest, as root.

ttrpc, service ``coco.ControlService`` (protos/control.proto). Lists show names; no answer holds plaintext.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.protos import control_pb2 as pb
from agent.serve.ttrpc.remote import Remote
from agent.serve.ttrpc.services import failure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.clock import Deadline
    from agent.hub.cache import Row
    from agent.serve.front import Front
    from agent.serve.ttrpc.server import Context, Handler, Services

log = logging.getLogger("coco.control")

API: Final = "control"
SERVICE: Final = "coco.ControlService"
PREFIX: Final = "[control] [ERROR]: "

_REQUEST_MAX: Final = limits.URI_MAX + limits.KIB
_ENTRY: Final = 64
"""Bytes of one entry besides its name, at most."""

Req = TypeVar("Req", bound=Message)


class Cache(Protocol):
    """What can be looked at and emptied; :class:`agent.hub.resources.Resources` is one."""

    def rows(self) -> Sequence[Row]:
        """All entries."""

    def drop(self, uri: str) -> int:
        """Wipe one; how many that were."""

    def invalidate(self, reason: str) -> int:
        """Wipe all; how many that were."""


def control_services(front: Front, cache: Cache) -> Services:
    """The one service.

    Args:
        front: gives requests their ids.
        cache: of the hub in this process.
    """

    def listed(_: pb.ListCacheRequest) -> Message:
        answer, room = pb.ListCacheResponse(), limits.CONTROL_LIST
        for row in cache.rows():
            room -= len(row.name) + _ENTRY
            if room < 0:
                answer.More += 1
                continue
            answer.Entries.add(Name=row.name, Size=row.size, Age=row.age, Left=row.left, State=row.state)
        return answer

    def dropped(request: pb.DropCacheRequest) -> Message:
        if request.All == bool(request.Uri):
            raise AgentError(ErrorCode.INVALID_REQUEST, "name one resource, or all")
        count = cache.invalidate("an operator said so") if request.All else cache.drop(request.Uri)
        return pb.DropCacheResponse(Dropped=count)

    return {
        SERVICE: {
            "ListCache": _handler(front, "list_cache", pb.ListCacheRequest, listed),
            "DropCache": _handler(front, "drop_cache", pb.DropCacheRequest, dropped),
        }
    }


def _handler(front: Front, verb: str, kind: type[Req], work: Callable[[Req], Message]) -> Handler:
    async def handle(payload: bytes, context: Context) -> bytes:
        call = front.call(API, context.peer, context.timeout)
        extra: dict[str, object] = {
            "api": API,
            "peer": context.peer,
            "verb": verb,
            "request_id": call.request_id,
        }
        try:
            _admit(context.uid)
            answer = work(_parse(kind, payload))
        except AgentError as error:
            log.warning("control request refused", extra={**extra, "code": error.code.name})
            raise failure(f"{PREFIX}{verb} failed", error, call.request_id) from error
        log.info("control request", extra={**extra, "result": "ok"})
        return answer.SerializeToString()

    return handle


def _admit(uid: int) -> None:
    # T-CTRL-2: the socket's mode keeps others out; this holds also when somebody loosens it.
    if uid not in {0, os.geteuid()}:
        raise AgentError(ErrorCode.PEER_REFUSED, "the control socket serves root and the agent's own user")


def _parse(kind: type[Req], payload: bytes) -> Req:
    # T-CTRL-3: bounded before parsing.
    if len(payload) > _REQUEST_MAX:
        raise AgentError(ErrorCode.PAYLOAD_TOO_LARGE, f"{len(payload)} bytes, at most {_REQUEST_MAX}")
    try:
        return kind.FromString(payload)
    except DecodeError:
        raise AgentError(ErrorCode.INVALID_REQUEST, f"not a {kind.__name__}") from None


class RemoteControl(Remote):
    """The control socket of a running agent."""

    async def list_cache(self, deadline: Deadline) -> pb.ListCacheResponse:
        """What is kept.

        Raises:
            AgentError: PEER_REFUSED, ROLE_UNREACHABLE, DEADLINE_EXCEEDED.
        """
        return await self._ask(
            SERVICE, pb.ListCacheRequest(), pb.ListCacheResponse, deadline, method="ListCache"
        )

    async def drop_cache(self, uri: str, deadline: Deadline) -> int:
        """Wipe one entry, or all for an empty URI; how many that were.

        Raises:
            AgentError: INVALID_URI, PEER_REFUSED, ROLE_UNREACHABLE, DEADLINE_EXCEEDED.
        """
        request = pb.DropCacheRequest(Uri=uri, All=not uri)
        answer = await self._ask(SERVICE, request, pb.DropCacheResponse, deadline, method="DropCache")
        return answer.Dropped
