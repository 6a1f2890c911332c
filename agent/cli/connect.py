"""How client commands reach the running agent."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from agent.clock import Deadline, SystemClock
from agent.config import limits
from agent.config.model import AA_SOCKET, CDH_SOCKET, CONTROL_SOCKET
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Awaitable, Callable

    from agent.serve.control import RemoteControl
    from agent.serve.ttrpc.remote import RemoteAttester, RemoteHub

T = TypeVar("T")


def add_hub_options(parser: ArgumentParser) -> None:
    """``--socket`` and ``--timeout`` for commands that talk to the hub."""
    _add_options(parser, CDH_SOCKET, "confidential data hub")


def add_attester_options(parser: ArgumentParser) -> None:
    """``--socket`` and ``--timeout`` for commands that talk to the attester."""
    _add_options(parser, AA_SOCKET, "attestation agent")


def add_control_options(parser: ArgumentParser) -> None:
    """``--socket`` and ``--timeout`` for commands that talk to the control socket."""
    _add_options(parser, CONTROL_SOCKET, "agent's control")


def _add_options(parser: ArgumentParser, socket: str, who: str) -> None:
    parser.add_argument(
        "-s",
        "--socket",
        default=socket,
        metavar="ADDRESS",
        help=f"socket of the {who} (default: %(default)s)",
    )
    parser.add_argument(
        "-t",
        "--timeout",
        type=float,
        default=limits.RPC_DEADLINE,
        metavar="SECONDS",
        help="give up after this long (default: %(default)s)",
    )


def ask_hub(socket: str, timeout: float, question: Callable[[RemoteHub, Deadline], Awaitable[T]]) -> T:
    """Ask the hub one question over its socket.

    Raises:
        AgentError: what the hub answered, or ROLE_UNREACHABLE.
    """
    from agent.serve.ttrpc.remote import RemoteHub  # noqa: PLC0415  # keeps --help light

    async def ask() -> T:
        hub = RemoteHub(socket)
        try:
            return await question(hub, Deadline.after(SystemClock(), timeout))
        finally:
            await hub.close()

    return asyncio.run(ask())


def ask_attester(
    socket: str, timeout: float, question: Callable[[RemoteAttester, Deadline], Awaitable[T]]
) -> T:
    """Ask the attester one question over its socket.

    Raises:
        AgentError: what the attester answered, or ROLE_UNREACHABLE.
    """
    from agent.serve.ttrpc.remote import RemoteAttester  # noqa: PLC0415  # keeps --help light

    async def ask() -> T:
        attester = RemoteAttester(socket)
        try:
            return await question(attester, Deadline.after(SystemClock(), timeout))
        finally:
            await attester.close()

    return asyncio.run(ask())


def ask_control(
    socket: str, timeout: float, question: Callable[[RemoteControl, Deadline], Awaitable[T]]
) -> T:
    """Ask the control socket one question.

    Raises:
        AgentError: what it answered, or ROLE_UNREACHABLE.
    """
    from agent.serve.control import RemoteControl  # noqa: PLC0415  # keeps --help light

    async def ask() -> T:
        control = RemoteControl(socket)
        try:
            return await question(control, Deadline.after(SystemClock(), timeout))
        finally:
            await control.close()

    return asyncio.run(ask())


def read_input(name: str, limit: int) -> bytes:
    """A file named by the user, or standard input for ``-``; at most ``limit`` bytes.

    Raises:
        AgentError: INVALID_REQUEST when it cannot be read or is larger.
    """
    try:
        if name == "-":
            content = sys.stdin.buffer.read(limit + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(limit + 1)
    except OSError as error:
        raise AgentError(ErrorCode.INVALID_REQUEST, f"{name}: {error.strerror}") from error
    if len(content) > limit:
        raise AgentError(ErrorCode.PAYLOAD_TOO_LARGE, f"{name}: larger than {limit} bytes")
    return content


def write_output(content: bytes, name: str | None) -> None:
    """Write to standard output, or to a new file that only its owner can read.

    Raises:
        AgentError: INVALID_REQUEST when the file exists or cannot be made.
    """
    if name is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        path = Path(name)
        path.touch(mode=0o600, exist_ok=False)
        try:
            path.write_bytes(content)
        except BaseException:
            # Half a secret is none, and would be in the way of the next try.
            path.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise AgentError(ErrorCode.INVALID_REQUEST, f"{name}: {error.strerror}") from error
