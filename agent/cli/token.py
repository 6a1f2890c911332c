"""``coco-agent token``."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from agent.cli import connect, text
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


class _Reply(msgspec.Struct):
    token: str


class _Claims(msgspec.Struct):
    iss: str = ""
    exp: float | None = None
    submods: dict[str, dict[str, object]] = {}


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--raw", action="store_true", help="print the token itself (a bearer secret: keep it out of logs)"
    )
    parser.add_argument("--json", action="store_true", help="print all claims as JSON")
    connect.add_attester_options(parser)


def run(arguments: Namespace) -> int:
    """Print the token's claims; its private key is never printed."""
    reply = connect.ask_attester(
        arguments.socket,
        arguments.timeout,
        lambda attester, deadline: attester.token("kbs", deadline),
    )
    token = msgspec.json.decode(reply.reveal(), type=_Reply).token
    if arguments.raw:
        print(token)
        return text.EXIT_OK
    try:
        payload = base64.urlsafe_b64decode(token.split(".")[1] + "==")
        claims = msgspec.json.decode(payload, type=_Claims)
    except (IndexError, ValueError):
        raise AgentError(ErrorCode.KBS_BAD_RESPONSE, "the token's payload is not JSON") from None
    if arguments.json:
        text.print_json(msgspec.json.decode(payload))
        return text.EXIT_OK
    expires = "never" if claims.exp is None else datetime.fromtimestamp(claims.exp, UTC).isoformat()
    print(f"issuer:  {claims.iss or '(none)'}\nexpires: {expires}")
    for name, module in sorted(claims.submods.items()):
        print(f"{name + ':':<8} {module.get('ear.status', '(no status)')}")
    return text.EXIT_OK
