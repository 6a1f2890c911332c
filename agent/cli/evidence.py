"""``coco-agent evidence``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.cli import connect, text
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    data = parser.add_mutually_exclusive_group()
    data.add_argument("--text", default="", help="runtime data as UTF-8 text (default: empty)")
    data.add_argument("--hex", metavar="HEX", help="runtime data as hexadecimal")
    parser.add_argument("--additional", action="store_true", help="evidence of devices, not of the CPU")
    connect.add_attester_options(parser)


def run(arguments: Namespace) -> int:
    """Print the evidence JSON as the agent gave it."""
    runtime_data = _runtime_data(arguments)
    evidence = connect.ask_attester(
        arguments.socket,
        arguments.timeout,
        lambda attester, deadline: (
            attester.additional_evidence(runtime_data, deadline)
            if arguments.additional
            else attester.evidence(runtime_data, deadline)
        ),
    )
    connect.write_output((evidence or b"{}") + b"\n", None)
    return text.EXIT_OK


def _runtime_data(arguments: Namespace) -> bytes:
    if arguments.hex is None:
        encoded: bytes = arguments.text.encode()
        return encoded
    try:
        return bytes.fromhex(arguments.hex)
    except ValueError:
        raise AgentError(ErrorCode.INVALID_REQUEST, "--hex is not hexadecimal") from None
