"""grpcio, loaded when gRPC is configured and not before: it is an extra, and takes a while to load."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Final

from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from types import ModuleType

_SETTINGS: Final = {
    # It would write lines of its own to standard error, with addresses and whatever a peer sent.
    "GRPC_VERBOSITY": "NONE",
    # Its handlers would run in each child process on the way to exec, and wait for its threads.
    "GRPC_ENABLE_FORK_SUPPORT": "0",
}


def load() -> tuple[ModuleType, ModuleType]:
    """``grpc`` and ``grpc.aio``.

    Raises:
        AgentError: CONFIG_INVALID, it is not installed.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        return import_module("grpc"), import_module("grpc.aio")
    except ImportError as error:
        detail = f"gRPC needs grpcio: pip install 'coco-guest-agent[grpc]' ({type(error).__name__})"
        raise AgentError(ErrorCode.CONFIG_INVALID, detail) from None
