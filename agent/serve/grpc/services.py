"""What is offered over gRPC (cdh.md 2.1-2.3, 2.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from agent.clock import Deadline, SystemClock
from agent.config import limits
from agent.errors import RpcCode
from agent.protos import keyprovider_pb2 as kp
from agent.serve.sockets import SCHEME
from agent.serve.ttrpc.codec import StatusError
from agent.serve.ttrpc.services import KEY_SERVICE, Dialect, aa_services, cdh_services

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.serve.front import Front
    from agent.serve.ttrpc.server import Context, Services

    WrapKey = Callable[[bytes, Deadline], Awaitable[bytes]]

WRAP_KEY: Final = "WrapKey not implemented."
UNWRAP_KEY: Final = "UnWrapKey not implemented: this is the image owner's key provider."


async def _wrap_key(payload: bytes, context: Context) -> bytes:  # noqa: ARG001  (a Handler)
    raise StatusError(RpcCode.UNIMPLEMENTED, WRAP_KEY)


GRPC: Final = Dialect("grpc", "[ERROR] CDH Unwrap Key failed", _wrap_key)


def guest_services(front: Front, address: str, *, attester: bool) -> Services:
    """The services of a guest at one address.

    Args:
        front: answers.
        address: where they are served. By TCP, which anybody in the guest can reach, it is the key provider
            alone; a Unix socket has all that the ttrpc sockets have.
        attester: whether this process has the attester role.
    """
    hub = cdh_services(front, GRPC)
    # T-IMGKEY-37: a loopback port has no owner and no mode; resources and tokens are not served there.
    if not address.startswith(SCHEME):
        return {KEY_SERVICE: hub[KEY_SERVICE]}
    return {**hub, **(aa_services(front, GRPC) if attester else {})}


def owner_services(wrap_key: WrapKey) -> Services:
    """The key provider of an image owner.

    Args:
        wrap_key: key provider JSON in and out; raises :class:`StatusError`.
    """

    async def wrap(payload: bytes, context: Context) -> bytes:
        try:
            request = kp.KeyProviderKeyWrapProtocolInput.FromString(payload)
        except DecodeError:
            detail = "not a KeyProviderKeyWrapProtocolInput"
            raise StatusError(RpcCode.INVALID_ARGUMENT, detail) from None
        deadline = Deadline.after(SystemClock(), context.timeout or limits.RPC_DEADLINE)
        output = await wrap_key(request.KeyProviderKeyWrapProtocolInput, deadline)
        return kp.KeyProviderKeyWrapProtocolOutput(
            KeyProviderKeyWrapProtocolOutput=output
        ).SerializeToString()

    return {KEY_SERVICE: {"WrapKey": wrap, "UnWrapKey": _unwrap_key}}


async def _unwrap_key(payload: bytes, context: Context) -> bytes:  # noqa: ARG001  (a Handler)
    raise StatusError(RpcCode.UNIMPLEMENTED, UNWRAP_KEY)
