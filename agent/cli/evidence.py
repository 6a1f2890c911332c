"""``coco-agent evidence``."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Final

from agent.cli import connect, text
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

NITRO: Final = "aws-nitro-attestation-document"
"""Says what the document is; Trustee has no verifier for it."""


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    data = parser.add_mutually_exclusive_group()
    data.add_argument("--text", default="", help="runtime data as UTF-8 text (default: empty)")
    data.add_argument("--hex", metavar="HEX", help="runtime data as hexadecimal")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--additional", action="store_true", help="evidence of devices, not of the CPU")
    which.add_argument(
        "--nsm",
        action="store_true",
        help="the AWS Nitro attestation document, which no KBS takes; asks /dev/nsm, not the agent",
    )
    connect.add_attester_options(parser)


def run(arguments: Namespace) -> int:
    """Print the evidence JSON as the agent gave it."""
    runtime_data = _runtime_data(arguments)
    if arguments.nsm:
        from agent.tee.nitro import attestation_document  # noqa: PLC0415  # keeps --help light

        document = attestation_document("/", user_data=runtime_data or None)
        text.print_json({"format": NITRO, "document": b64encode(document).decode()})
        return text.EXIT_OK
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
